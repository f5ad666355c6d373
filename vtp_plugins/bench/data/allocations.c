/* Counts live bytes of the C heap and their peak. Loaded before everything else (LD_PRELOAD), it replaces
 * glibc's allocation functions by ones that count and then call glibc's own. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stddef.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Atomic long long live, peak;

static void count(long long bytes) {
    long long now = atomic_fetch_add(&live, bytes) + bytes;
    long long highest = atomic_load(&peak);
    while (now > highest && !atomic_compare_exchange_weak(&peak, &highest, now)) {
    }
}

static void *counted(void *block) {
    if (block) count((long long)malloc_usable_size(block));
    return block;
}

void *malloc(size_t size) { return counted(__libc_malloc(size)); }
void *calloc(size_t number, size_t size) { return counted(__libc_calloc(number, size)); }
void *memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void *aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    void *found = counted(__libc_memalign(alignment, size));
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}

void *realloc(void *block, size_t size) {
    long long before = block ? (long long)malloc_usable_size(block) : 0;
    void *found = __libc_realloc(block, size);
    if (found || !size) count((found ? (long long)malloc_usable_size(found) : 0) - before);
    return found;
}

void free(void *block) {
    if (block) atomic_fetch_sub(&live, (long long)malloc_usable_size(block));
    __libc_free(block);
}

/* The peak starts again at what is live now, which is returned. */
long long allocations_start(void) {
    long long now = atomic_load(&live);
    atomic_store(&peak, now);
    return now;
}

long long allocations_peak(void) { return atomic_load(&peak); }
