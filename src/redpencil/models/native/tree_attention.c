/* Attention over trees on a CPU, forward and backward, in float32.

A run is the tokens [start, end), causal among themselves; all of them also see the ranges above.
The ranges above and the run's own tokens, side by side, are its path of m keys, and query i of a
run sees the first depth + i + 1 of them. Runs that share keys form a group. A group under one key
head is one item of work: one thread computes it from beginning to end, so nothing is added up in
an order that chance decides. Where that makes too few items for the threads, the query heads of a
key head are items of their own, and each has its own gradient of keys and values.

Per block of queries the whole rows of scores are held (no running maximum), so two small matrix
products make a forward pass and five a backward pass. All are one kernel, `multiply`, which keeps
ROWS x 2 vectors of sums in registers. Scores of keys that a query does not see are skipped as far
as ROWS rows at once allow.

Memory: query, out: (N, H, D); key, value: (N, K, D); grad_key, grad_value: (parts, N, K, D); lse:
(N, H), of scores before they are scaled; D a multiple of LANES_MOST. Letters: n queries of a
block, m keys of a path, ld the length of a row of scores.

kernel.py says the same in Python's types; what changes here changes there.
*/

#include <math.h>
#include <string.h>

#include "vectors.h"

enum { ROWS = 6, BLOCK = 48 };

typedef struct { long start, end, depth, first_above, aboves; } Run;
typedef struct { long start, end; } Range;

typedef struct {
    const float *query, *key, *value, *grad_out;
    float *out, *lse, *grad_query, *grad_key, *grad_value;
    float *scratch;
    const Run *runs;
    const Range *above;
    const Range *groups; /* of runs; the dearest first, so that threads end together */
    long group_count, tokens, heads, key_heads, parts, width, longest_path;
    float scale;
    int backward;
} Job;

/* What one thread works in. Rows of `transposed` and of scores are `ld` long, as the longest path
needs it. */
typedef struct {
    long ld;
    float *key_t, *value_t, *key, *value, *grad_key, *grad_value, *scores, *grad_scores;
} Desk;

static long row_length(long keys) {
    long ld = (keys + ROWS + 2 * LANES_MOST - 1) / (2 * LANES_MOST) * (2 * LANES_MOST);
    return ld + LANES_MOST; /* an odd number of cache lines: rows do not compete for the same ones */
}

/* What a thread needs of `scratch`. */
long scratch_floats(long longest_path, long width) {
    long ld = row_length(longest_path);
    return 2 * width * ld + 4 * width * longest_path + 2 * BLOCK * ld;
}

static Desk desk_of(const Job *job, long slot) {
    long ld = row_length(job->longest_path), d = job->width, m = job->longest_path;
    Desk desk = {.ld = ld};
    float *at = job->scratch + slot * scratch_floats(m, d);
    desk.key_t = at, at += d * ld;
    desk.value_t = at, at += d * ld;
    desk.key = at, at += m * d;
    desk.value = at, at += m * d;
    desk.grad_key = at, at += m * d;
    desk.grad_value = at, at += m * d;
    desk.scores = at, at += BLOCK * ld;
    desk.grad_scores = at;
    return desk;
}

/* c = a b, or c += a b, for rows x (vecs * LANES) sums over `depth`; entry (r, k) of a is
a[r * by_row + k * by_depth]. Called with constants for rows and vecs. */
INLINE void tile(const int rows, const int vecs, const int add, long depth, const float *a,
                 long by_row, long by_depth, const float *b, long ldb, float *c, long ldc) {
    vec sums[ROWS][2];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++)
            sums[r][v] = add ? LOAD(c + r * ldc + v * LANES) : (vec){0};
    for (long k = 0; k < depth; k++, a += by_depth, b += ldb) {
        vec right[2];
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) right[v] = LOAD(b + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            float left = a[r * by_row];
#pragma GCC unroll 2
            for (int v = 0; v < vecs; v++) sums[r][v] += left * right[v];
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) STORE(c + r * ldc + v * LANES, sums[r][v]);
}

/* ROWS rows at most, `columns` a multiple of LANES. */
INLINE void multiply(int rows, long columns, const int add, long depth, const float *a, long by_row,
                     long by_depth, const float *b, long ldb, float *c, long ldc) {
#define TILES(rows)                                                                              \
    for (; j + 2 * LANES <= columns; j += 2 * LANES)                                             \
        tile(rows, 2, add, depth, a, by_row, by_depth, b + j, ldb, c + j, ldc);                  \
    if (j < columns) tile(rows, 1, add, depth, a, by_row, by_depth, b + j, ldb, c + j, ldc);     \
    break
    long j = 0;
    switch (rows) {
        case 6: TILES(6);
        case 5: TILES(5);
        case 4: TILES(4);
        case 3: TILES(3);
        case 2: TILES(2);
        case 1: TILES(1);
    }
#undef TILES
}

static long smaller(long a, long b) { return a < b ? a : b; }
static long larger(long a, long b) { return a > b ? a : b; }
static long whole_vectors(long floats) { return (floats + LANES - 1) / LANES * LANES; }

INLINE ivec first_lanes(long lanes) {
    ivec index;
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) index[i] = i;
    return index < (int)smaller(lanes, LANES);
}

/* The first `seen` scores become e^(scale * (score - shift)), zeros follow up to `filled`. Scores
are at most the shift, and the difference comes first: however it is rounded it is not above 0. */
INLINE float exponentials(float *row, long seen, long filled, float scale, float shift) {
    vec sum = {0};
    long j = 0;
    for (; j + LANES <= seen; j += LANES) {
        vec e = exponential((LOAD(row + j) - shift) * scale);
        STORE(row + j, e);
        sum += e;
    }
    if (j < seen) {
        ivec inside = first_lanes(seen - j);
        vec x = choose(inside, (LOAD(row + j) - shift) * scale, splat(-100.0f));
        vec e = exponential(x);
        STORE(row + j, e);
        sum += e;
        j += LANES;
    }
    for (; j < filled; j += LANES) STORE(row + j, (vec){0});
    return sum_of(sum);
}

INLINE float largest(const float *row, long seen) {
    vec most = splat(row[0]);
    long j = 0;
    for (; j + LANES <= seen; j += LANES) {
        vec x = LOAD(row + j);
        most = choose(x > most, x, most);
    }
    float one = row[0];
    for (int i = 0; i < LANES; i++) one = most[i] > one ? most[i] : one;
    for (; j < seen; j++) one = row[j] > one ? row[j] : one;
    return one;
}

/* Copies one head's rows of a path side by side, and/or as columns. */
static void gather(const Job *job, const Run *run, const float *from, long head, float *rows,
                   float *columns, long ld) {
    long d = job->width, stride = job->key_heads * d, at = 0;
    for (long r = 0; r <= run->aboves; r++) {
        const Range own = {run->start, run->end};
        const Range *range = r < run->aboves ? job->above + run->first_above + r : &own;
        for (long t = range->start; t < range->end; t++, at++) {
            const float *row = from + t * stride + head * d;
            if (rows) memcpy(rows + at * d, row, d * sizeof(float));
            if (columns)
                for (long i = 0; i < d; i++) columns[i * ld + at] = row[i];
        }
    }
    if (columns)
        for (long i = 0; i < d; i++) memset(columns + i * ld + at, 0, (ld - at) * sizeof(float));
}

static void add_back(const Job *job, const Run *run, const float *rows, long head, float *to) {
    long d = job->width, stride = job->key_heads * d, at = 0;
    for (long r = 0; r <= run->aboves; r++) {
        const Range own = {run->start, run->end};
        const Range *range = r < run->aboves ? job->above + run->first_above + r : &own;
        for (long t = range->start; t < range->end; t++, at++)
            for (long i = 0; i < d; i++) to[t * stride + head * d + i] += rows[at * d + i];
    }
}

/* Products of n queries' rows with every key they may see: query i sees seen + i + 1 of them. */
static void against_keys(const Job *job, long n, long seen, const float *rows, const float *columns,
                         long ld, float *scores) {
    long stride = job->heads * job->width;
    for (long i = 0; i < n; i += ROWS) {
        long r = smaller(ROWS, n - i);
        multiply(r, whole_vectors(seen + i + r), 0, job->width, rows + i * stride, stride, 1, columns,
                 ld, scores + i * ld, ld);
    }
}

/* (n, m) numbers, zero where a query does not see a key, times the keys' rows. */
static void over_keys(const Job *job, long n, long seen, const float *numbers, long ld,
                      const float *keys, float *rows) {
    long d = job->width, stride = job->heads * d;
    for (long i = 0; i < n; i += ROWS) {
        long r = smaller(ROWS, n - i);
        multiply(r, d, 0, seen + i + r, numbers + i * ld, ld, 1, keys, d, rows + i * stride, stride);
    }
}

/* Adds, for every key, the sum over the queries that see it of number times the query's row. */
static void over_queries(const Job *job, long n, long seen, const float *numbers, long ld,
                         const float *rows, float *sums) {
    long d = job->width, stride = job->heads * d, keys = seen + n;
    for (long j = 0; j < keys; j += ROWS) {
        long first = larger(0, j - seen);
        multiply(smaller(ROWS, keys - j), d, 1, n - first, numbers + first * ld + j, 1, ld,
                 rows + first * stride, stride, sums + j * d, d);
    }
}

static long filled_to(long seen, long ld) { return smaller(whole_vectors(seen + ROWS), ld); }

static void forward_block(const Job *job, const Desk *desk, long first, long n, long seen, long head) {
    long d = job->width, ld = desk->ld, stride = job->heads * d;
    float *out = job->out + first * stride + head * d;
    against_keys(job, n, seen, job->query + first * stride + head * d, desk->key_t, ld, desk->scores);
    float inverse[BLOCK];
    for (long i = 0; i < n; i++) {
        float *row = desk->scores + i * ld;
        float most = largest(row, seen + i + 1);
        float sum = exponentials(row, seen + i + 1, filled_to(seen + i + 1, ld), job->scale, most);
        job->lse[(first + i) * job->heads + head] = most + logf(sum) / job->scale;
        inverse[i] = 1.0f / sum;
    }
    over_keys(job, n, seen, desk->scores, ld, desk->value, out);
    for (long i = 0; i < n; i++)
        for (long j = 0; j < d; j++) out[i * stride + j] *= inverse[i];
}

static void backward_block(const Job *job, const Desk *desk, long first, long n, long seen, long head) {
    long d = job->width, ld = desk->ld, stride = job->heads * d;
    const float *query = job->query + first * stride + head * d;
    const float *grad_out = job->grad_out + first * stride + head * d;
    float *p = desk->scores, *grad = desk->grad_scores;
    against_keys(job, n, seen, query, desk->key_t, ld, p);
    against_keys(job, n, seen, grad_out, desk->value_t, ld, grad);
    for (long i = 0; i < n; i++) {
        float *p_row = p + i * ld, *grad_row = grad + i * ld;
        long filled = filled_to(seen + i + 1, ld), j = 0;
        float lse = job->lse[(first + i) * job->heads + head];
        exponentials(p_row, seen + i + 1, filled, job->scale, lse);
        vec inner = {0}; /* sum of p * dL/dp: what softmax's gradient takes off */
        for (; j < seen + i + 1; j += LANES) inner += LOAD(p_row + j) * LOAD(grad_row + j);
        float mean = sum_of(inner);
        for (j = 0; j < seen + i + 1; j += LANES)
            STORE(grad_row + j, LOAD(p_row + j) * (LOAD(grad_row + j) - mean) * job->scale);
        for (; j < filled; j += LANES) STORE(grad_row + j, (vec){0});
    }
    over_keys(job, n, seen, grad, ld, desk->key, job->grad_query + first * stride + head * d);
    over_queries(job, n, seen, p, ld, grad_out, desk->grad_value);
    over_queries(job, n, seen, grad, ld, query, desk->grad_key);
}

/* A run under the query heads of one part of a key head. */
static void run_under(const Job *job, const Desk *desk, const Run *run, long key_head, long part) {
    long tokens = run->end - run->start, keys = run->depth + tokens, d = job->width;
    long heads = job->heads / job->key_heads / job->parts;
    long first_head = (key_head * job->parts + part) * heads;
    long of_part = part * job->tokens * job->key_heads * d;
    gather(job, run, job->key, key_head, job->backward ? desk->key : 0, desk->key_t, desk->ld);
    gather(job, run, job->value, key_head, job->backward ? 0 : desk->value,
           job->backward ? desk->value_t : 0, desk->ld);
    if (job->backward) {
        memset(desk->grad_key, 0, keys * d * sizeof(float));
        memset(desk->grad_value, 0, keys * d * sizeof(float));
    }
    for (long head = first_head; head < first_head + heads; head++)
        for (long i = 0; i < tokens; i += BLOCK) {
            long n = smaller(BLOCK, tokens - i);
            (job->backward ? backward_block : forward_block)(job, desk, run->start + i, n,
                                                             run->depth + i, head);
        }
    if (job->backward) {
        add_back(job, run, desk->grad_key, key_head, job->grad_key + of_part);
        add_back(job, run, desk->grad_value, key_head, job->grad_value + of_part);
    }
}

static void one_item(const void *pointer, long item, long slot) {
    const Job *job = pointer;
    Desk desk = desk_of(job, slot);
    long per_group = job->key_heads * job->parts;
    const Range *group = job->groups + item / per_group;
    long head = item % per_group;
    for (long r = group->start; r < group->end; r++)
        run_under(job, &desk, job->runs + r, head / job->parts, head % job->parts);
}

/* scratch must hold scratch_floats() for each thread. */
void tree_attention(const Job *job, Parallel *parallel, int threads) {
    deal(one_item, job, job->group_count * job->key_heads * job->parts, parallel, threads);
}
