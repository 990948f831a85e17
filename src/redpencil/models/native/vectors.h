/* Vectors of floats as wide as the CPU's, and work dealt out to threads. */

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
enum { LANES_MOST = 16 };

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))
#define LOAD(p) (*(const vec *)(p))
#define STORE(p, v) (*(vec *)(p) = (v))

INLINE vec choose(ivec where, vec yes, vec no) {
    return (vec)((where & (ivec)yes) | (~where & (ivec)no));
}

INLINE vec splat(float x) { return x - (vec){0}; }

INLINE float sum_of(vec x) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

/* e^x for x <= 0, to 1e-7 of it; 0 below -87; NaN stays NaN. */
INLINE vec exponential(vec x) {
    ivec tiny = x < -87.0f;
    vec shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: its last bits are the integer */
    ivec power = (ivec)shifted << 23;
    vec whole = shifted - 12582912.0f;
    vec f = x - whole * 0.693145752f - whole * 1.42860677e-6f;
    vec p = f * 1.9875691e-4f + 1.3981999e-3f;
    p = p * f + 8.3334519e-3f;
    p = p * f + 4.1665796e-2f;
    p = p * f + 1.6666666e-1f;
    p = p * f + 0.5f;
    p = p * f * f + f + 1.0f;
    vec result = choose(tiny, splat(0.0f), (vec)((ivec)p + power));
    return choose(x != x, x, result);
}

/* GOMP_parallel of the OpenMP library that torch has loaded: both then share their threads. */
typedef void Parallel(void (*)(void *), void *, unsigned, unsigned);

typedef void OneItem(const void *job, long item, long slot);

typedef struct {
    OneItem *one;
    const void *job;
    long items, next_item, next_slot;
} Deal;

/* What each thread does: items until none is left. Its slot is a number of its own, below the number
of threads and that of items. */
static void take_items(void *pointer) {
    Deal *deal = pointer;
    long slot = -1;
    for (;;) {
        long item = __atomic_fetch_add(&deal->next_item, 1, __ATOMIC_RELAXED);
        if (item >= deal->items) return;
        if (slot < 0) slot = __atomic_fetch_add(&deal->next_slot, 1, __ATOMIC_RELAXED);
        deal->one(deal->job, item, slot);
    }
}

static void deal(OneItem *one, const void *job, long items, Parallel *parallel, int threads) {
    Deal dealt = {one, job, items, 0, 0};
    if (threads > 1 && items > 1)
        parallel(take_items, &dealt, threads, 0);
    else
        take_items(&dealt);
}
