// Threads that share the units of one operation. A step has hundreds of operations of 10 to 100 microseconds: ONNX Runtime's own
// pool takes 4 of them to begin and end each.
//
// Every thread has a share, one after the other, and does it from the front; whoever is early takes half of what another has left,
// from the back: streams stay long. Nobody waits for a unit that nobody has begun, so that the work is done whether or not anyone
// helps, and its results do not depend on who did what.
//
// Helpers with nothing to do ask the memory for what the last run read next (ahead.h).
#pragma once
#if defined(__STDC_NO_ATOMICS__) || defined(_WIN32)
#define TEAM 0
#else
#define TEAM 1
#include "ahead.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum { MOST_THREADS = 64, AWAKE_MICROSECONDS = 200 };

// Units first .. last - 1 of what a thread has not begun, under the number of the work: it may be another's by the time it is read.
typedef struct Share {
    _Alignas(64) _Atomic uint64_t units; // number << 44 | first << 22 | last
} Share;

static struct {
    Share shares[MOST_THREADS]; // the first is that of whose work it is, the others the helpers'
    pthread_mutex_t busy;       // held by whose work it is
    _Atomic size_t unfinished, threads, grain;
    void (*part)(void *data, size_t first, size_t last);
    void *data;
    uint64_t number;
    size_t started;
    pthread_mutex_t bed;
    pthread_cond_t alarm;
    _Atomic size_t asleep;
} team = {.busy = PTHREAD_MUTEX_INITIALIZER, .bed = PTHREAD_MUTEX_INITIALIZER, .alarm = PTHREAD_COND_INITIALIZER};

static inline void team_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int team_left(uint64_t units) { return (units >> 22 & 0x3fffff) < (units & 0x3fffff); }

// Units for thread `number`; whether there were some. What is published besides stays as it is until they are finished.
static int team_take(size_t number, size_t *first, size_t *last) {
    const size_t threads = atomic_load_explicit(&team.threads, memory_order_relaxed);
    const size_t grain = atomic_load_explicit(&team.grain, memory_order_relaxed);
    for (size_t i = 0; number < threads && i < threads; i++) {
        _Atomic uint64_t *share = &team.shares[(number + i) % threads].units;
        uint64_t units = atomic_load_explicit(share, memory_order_acquire);
        while (team_left(units)) {
            *first = units >> 22 & 0x3fffff;
            *last = units & 0x3fffff;
            const size_t left = *last - *first, many = i ? (left + 1) / 2 : grain < left ? grain : left;
            const uint64_t rest = i ? units - many : units + ((uint64_t)many << 22);
            if (atomic_compare_exchange_weak_explicit(share, &units, rest, memory_order_acquire, memory_order_acquire)) {
                *(i ? first : last) = i ? *last - many : *first + many;
                return 1;
            }
        }
    }
    return 0;
}

// Whatever can be had; how much it was.
static size_t team_work(size_t number) {
    size_t first, last, done = 0;
    for (; team_take(number, &first, &last); done += last - first)
        team.part(team.data, first, last);
    if (done)
        atomic_fetch_sub_explicit(&team.unfinished, done, memory_order_release);
    return done;
}

static int team_idle(void) {
    for (size_t i = 0; i < MOST_THREADS; i++)
        if (team_left(atomic_load(&team.shares[i].units)))
            return 0;
    return 1;
}

static int64_t team_microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void *team_help(void *data) {
    const size_t number = (size_t)(uintptr_t)data;
    int64_t last = team_microseconds();
    Asking asking = {0};
    for (uint32_t round = 1;; round++) {
        if (team_work(number)) {
            last = 0;
            continue;
        }
        if (!ask_ahead(&asking, number))
            team_pause();
        if (round % 64)
            continue;
        int64_t now = team_microseconds();
        if (!last)
            last = now;
        if (now - last < AWAKE_MICROSECONDS)
            continue;
        pthread_mutex_lock(&team.bed);
        atomic_fetch_add(&team.asleep, 1);
        if (team_idle())
            pthread_cond_wait(&team.alarm, &team.bed);
        atomic_fetch_sub(&team.asleep, 1);
        pthread_mutex_unlock(&team.bed);
        last = 0;
    }
    return NULL;
}

// Let helpers be awake when there is work.
static void team_wake(void) {
    if (!atomic_load(&team.asleep))
        return;
    pthread_mutex_lock(&team.bed);
    pthread_cond_broadcast(&team.alarm);
    pthread_mutex_unlock(&team.bed);
}

// A forked child has no helpers.
static void team_forked(void) {
    team.started = 0;
    for (size_t i = 0; i < MOST_THREADS; i++)
        atomic_store(&team.shares[i].units, 0);
    atomic_store(&team.asleep, 0);
    pthread_mutex_init(&team.busy, NULL);
    pthread_mutex_init(&team.bed, NULL);
    pthread_cond_init(&team.alarm, NULL);
}

static void team_start(size_t wanted) {
    static int watched;
    if (!watched)
        watched = !pthread_atfork(NULL, NULL, team_forked);
    for (; team.started < wanted; team.started++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, team_help, (void *)(uintptr_t)(team.started + 1)))
            return; // those there are will do
        pthread_detach(thread);
    }
}

// part(data, first, last) for units that make up 0 .. count - 1, on at most so many threads; a thread that has a share of its own
// left does `grain` at a time.
static void team_run(void (*part)(void *, size_t, size_t), size_t count, size_t grain, size_t threads, void *data) {
    if (threads > MOST_THREADS)
        threads = MOST_THREADS;
    // One work at a time: whoever comes second does theirs alone.
    if (count < 2 || count >= 1 << 22 || threads < 2 || pthread_mutex_trylock(&team.busy)) {
        part(data, 0, count);
        return;
    }
    team_start(threads - 1);
    team.part = part;
    team.data = data;
    team.number++;
    atomic_store_explicit(&team.unfinished, count, memory_order_relaxed);
    atomic_store_explicit(&team.threads, threads, memory_order_relaxed);
    atomic_store_explicit(&team.grain, grain < 1 ? 1 : grain, memory_order_relaxed);
    for (size_t i = threads; i--;)
        atomic_store(&team.shares[i].units, team.number << 44 | count * i / threads << 22 | count * (i + 1) / threads);
    team_wake();
    team_work(0);
    while (atomic_load_explicit(&team.unfinished, memory_order_acquire))
        team_pause();
    pthread_mutex_unlock(&team.busy);
}
#endif
