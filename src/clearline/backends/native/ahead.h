// What is read next. Between products a step has work for one thread: meanwhile helpers ask the memory for the matrix that followed
// the last time. That is a guess: wrong, out of date or torn by a race it costs a few reads and changes nothing, since asking for
// an address never fails.
#pragma once
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

// Bytes a helper asks for at most, of one share and of all, which a core's own cache should hold; lines at once; matrices that are
// remembered.
enum { ASK_SHARE = 256 * 1024, ASK_MOST = 1024 * 1024, ASK_LINES = 8, REMEMBERED = 4096 };

// A matrix in `threads` shares, one after the other.
typedef struct Next {
    _Atomic uintptr_t after, codes; // the codes of the matrix before it, and its own
    _Atomic size_t bytes, threads;
} Next;

static Next followers[REMEMBERED];
static _Atomic uintptr_t now_reading;

static inline Next *follower(uintptr_t codes) { return &followers[(codes >> 6) * 0x9e3779b97f4a7c15u >> 52]; }

// The codes of a matrix that is about to be read.
static inline void reading(const void *codes, size_t bytes, size_t threads) {
    static _Thread_local uintptr_t before;
    Next *next = follower(before);
    if (before && (atomic_load_explicit(&next->codes, memory_order_relaxed) != (uintptr_t)codes ||
                   atomic_load_explicit(&next->after, memory_order_relaxed) != before)) {
        atomic_store_explicit(&next->after, before, memory_order_relaxed);
        atomic_store_explicit(&next->codes, (uintptr_t)codes, memory_order_relaxed);
        atomic_store_explicit(&next->bytes, bytes, memory_order_relaxed);
        atomic_store_explicit(&next->threads, threads, memory_order_relaxed);
    }
    before = (uintptr_t)codes;
    atomic_store_explicit(&now_reading, before, memory_order_relaxed);
}

// How far a helper has asked.
typedef struct Asking {
    uintptr_t from, matrix; // what was read when it began; what it asks for
    uintptr_t at;
    size_t left, most, share, shares, bytes;
} Asking;

// Ask for some lines as helper `number`; whether there were some.
static inline int ask_ahead(Asking *a, size_t number) {
    const uintptr_t now = atomic_load_explicit(&now_reading, memory_order_relaxed);
    if (now != a->from)
        *a = (Asking){.from = now, .matrix = now, .most = ASK_MOST};
    if (!a->left) {
        if (!a->most)
            return 0;
        if (a->share == 1 && number == 1) {
            a->share = 0; // the share of whoever is busy
        } else {
            const Next *next = follower(a->matrix);
            const uintptr_t codes = atomic_load_explicit(&next->codes, memory_order_relaxed);
            if (atomic_load_explicit(&next->after, memory_order_relaxed) != a->matrix || !codes) {
                a->most = 0;
                return 0;
            }
            a->matrix = codes;
            a->bytes = atomic_load_explicit(&next->bytes, memory_order_relaxed);
            a->shares = atomic_load_explicit(&next->threads, memory_order_relaxed);
            a->share = number < a->shares ? number : 0;
        }
        const size_t whole = a->shares ? a->bytes / a->shares : 0;
        a->at = a->matrix + whole * a->share;
        a->left = whole < ASK_SHARE ? whole : ASK_SHARE;
        a->left = a->left < a->most ? a->left : a->most;
        a->most -= a->left;
    }
    for (int i = 0; i < ASK_LINES && a->left; i++, a->at += 64, a->left -= a->left < 64 ? a->left : 64)
        __builtin_prefetch((const void *)a->at, 0, 2);
    return 1;
}
