// Threads that share the parts of one operation. A step has hundreds of operations of 10 to 100 microseconds: ONNX Runtime's own
// pool takes 4 of them to begin and end each.
//
// Whoever has work publishes it and does parts of it until none is left; threads that are awake help. Nobody waits for a part that
// nobody has begun, so that the work is done whether or not anyone helps, and its results do not depend on who did what.
#pragma once
#if defined(__STDC_NO_ATOMICS__) || defined(_WIN32)
#define TEAM 0
#else
#define TEAM 1
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum { MOST_HELPERS = 63, AWAKE_MICROSECONDS = 200 };

static struct {
    pthread_mutex_t busy; // held by whose work it is
    // The number of the work in the high half, the parts that nobody has begun in the low half.
    _Atomic uint64_t open;
    _Atomic size_t unfinished, helpers;
    void (*part)(void *data, size_t index);
    void *data;
    size_t count;
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

// Begin and finish one part; whether there was one.
static int team_take(void) {
    uint64_t open = atomic_load_explicit(&team.open, memory_order_acquire);
    while ((uint32_t)open) {
        if (atomic_compare_exchange_weak_explicit(&team.open, &open, open - 1, memory_order_acquire, memory_order_acquire)) {
            // Only now: what is published stays as it is until every part is finished.
            team.part(team.data, team.count - (uint32_t)open);
            atomic_fetch_sub_explicit(&team.unfinished, 1, memory_order_release);
            return 1;
        }
    }
    return 0;
}

static int64_t team_microseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void *team_help(void *data) {
    const size_t number = (size_t)(uintptr_t)data;
    int64_t last = team_microseconds();
    for (uint32_t round = 1;; round++) {
        if (number < atomic_load_explicit(&team.helpers, memory_order_relaxed) && team_take()) {
            last = 0;
            continue;
        }
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
        if (!(uint32_t)atomic_load(&team.open))
            pthread_cond_wait(&team.alarm, &team.bed);
        atomic_fetch_sub(&team.asleep, 1);
        pthread_mutex_unlock(&team.bed);
        last = 0;
    }
    return NULL;
}

// A forked child has no helpers.
static void team_forked(void) {
    team.started = 0;
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
        if (pthread_create(&thread, NULL, team_help, (void *)(uintptr_t)team.started))
            return; // those there are will do
        pthread_detach(thread);
    }
}

// part(data, 0) ... part(data, count - 1), on at most so many threads.
static void team_run(void (*part)(void *, size_t), size_t count, size_t threads, void *data) {
    if (threads > MOST_HELPERS + 1)
        threads = MOST_HELPERS + 1;
    // One work at a time: whoever comes second does theirs alone.
    if (count < 2 || threads < 2 || pthread_mutex_trylock(&team.busy)) {
        for (size_t i = 0; i < count; i++)
            part(data, i);
        return;
    }
    team_start(threads - 1);
    team.part = part;
    team.data = data;
    team.count = count;
    atomic_store_explicit(&team.helpers, threads - 1, memory_order_relaxed);
    atomic_store_explicit(&team.unfinished, count, memory_order_relaxed);
    uint64_t number = (atomic_load_explicit(&team.open, memory_order_relaxed) >> 32) + 1;
    atomic_store(&team.open, number << 32 | (uint32_t)count);
    if (atomic_load(&team.asleep)) {
        pthread_mutex_lock(&team.bed);
        pthread_cond_broadcast(&team.alarm);
        pthread_mutex_unlock(&team.bed);
    }
    while (team_take())
        ;
    while (atomic_load_explicit(&team.unfinished, memory_order_acquire))
        team_pause();
    pthread_mutex_unlock(&team.busy);
}
#endif
