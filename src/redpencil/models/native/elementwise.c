/* What lies between the matrix products of a decoder layer, in one pass over memory each: the gate
of an MLP, RMS norms and rotations, forward and backward, in float32. torch takes two to nine. */

#include <math.h>

#include "vectors.h"

enum { PIECE = 16384, ROW_FLOATS = 32768 };

typedef struct {
    const float *gate, *up, *grad;
    float *product, *grad_gate, *grad_up;
    long count; /* a multiple of LANES_MOST */
} Gated;

INLINE vec sigmoid(vec x) {
    vec e = exponential(choose(x < 0.0f, x, -x));
    return choose(x < 0.0f, e, splat(1.0f)) / (1.0f + e);
}

INLINE long piece_end(long start, long count) {
    return start + PIECE < count ? start + PIECE : count;
}

static void gate_piece(const void *pointer, long item, long slot) {
    (void)slot;
    const Gated *g = pointer;
    long end = piece_end(item * PIECE, g->count);
    for (long i = item * PIECE; i < end; i += LANES) {
        vec x = LOAD(g->gate + i);
        STORE(g->product + i, x * sigmoid(x) * LOAD(g->up + i));
    }
}

static void gate_piece_backward(const void *pointer, long item, long slot) {
    (void)slot;
    const Gated *g = pointer;
    long end = piece_end(item * PIECE, g->count);
    for (long i = item * PIECE; i < end; i += LANES) {
        vec x = LOAD(g->gate + i), grad = LOAD(g->grad + i), s = sigmoid(x), silu = x * s;
        STORE(g->grad_up + i, grad * silu);
        STORE(g->grad_gate + i, grad * LOAD(g->up + i) * (s + silu * (1.0f - s)));
    }
}

/* product = silu(gate) * up; or, where there is a grad, the gradients of both. */
void gated(const Gated *g, Parallel *parallel, int threads) {
    long items = (g->count + PIECE - 1) / PIECE;
    deal(g->grad ? gate_piece_backward : gate_piece, g, items, parallel, threads);
}

typedef struct {
    const float *x, *weight, *grad;
    float *scale;                        /* (rows,): 1 / sqrt(mean(x^2) + eps) */
    float *out, *grad_x, *grad_weight;   /* grad_weight: (pieces, width), or none */
    long rows, width;                    /* width: a multiple of LANES_MOST */
    float eps;
} Norm;

static long rows_a_piece(long width) { return width < ROW_FLOATS ? ROW_FLOATS / width : 1; }

/* In how many pieces rows are dealt out. */
long pieces(long rows, long width) {
    long each = rows_a_piece(width);
    return (rows + each - 1) / each;
}

static void norm_piece(const void *pointer, long item, long slot) {
    (void)slot;
    const Norm *n = pointer;
    long d = n->width, each = rows_a_piece(d), end = (item + 1) * each;
    for (long row = item * each; row < (end < n->rows ? end : n->rows); row++) {
        const float *x = n->x + row * d;
        vec squares = {0};
        for (long i = 0; i < d; i += LANES) squares += LOAD(x + i) * LOAD(x + i);
        float scale = 1.0f / sqrtf(sum_of(squares) / d + n->eps);
        n->scale[row] = scale;
        for (long i = 0; i < d; i += LANES)
            STORE(n->out + row * d + i, LOAD(n->weight + i) * (LOAD(x + i) * scale));
    }
}

/* dL/dx = s (g - n mean(g n)), n = x s, g = w dL/dy; dL/dw = sum over rows of n dL/dy. */
static void norm_piece_backward(const void *pointer, long item, long slot) {
    (void)slot;
    const Norm *n = pointer;
    long d = n->width, each = rows_a_piece(d), end = (item + 1) * each;
    float *of_weight = n->grad_weight ? n->grad_weight + item * d : 0;
    for (long i = 0; of_weight && i < d; i += LANES) STORE(of_weight + i, (vec){0});
    for (long row = item * each; row < (end < n->rows ? end : n->rows); row++) {
        const float *x = n->x + row * d, *grad = n->grad + row * d;
        float scale = n->scale[row];
        vec inner = {0};
        for (long i = 0; i < d; i += LANES) {
            vec both = LOAD(grad + i) * (LOAD(x + i) * scale);
            if (of_weight) STORE(of_weight + i, LOAD(of_weight + i) + both);
            inner += both * LOAD(n->weight + i);
        }
        float mean = sum_of(inner) / d;
        for (long i = 0; i < d; i += LANES) {
            vec normal = LOAD(x + i) * scale;
            vec g = LOAD(grad + i) * LOAD(n->weight + i);
            STORE(n->grad_x + row * d + i, (g - normal * mean) * scale);
        }
    }
}

/* out and scale; or, where there is a grad, grad_x and, if wanted, grad_weight piece by piece. */
void rms_norm(const Norm *n, Parallel *parallel, int threads) {
    OneItem *one = n->grad ? norm_piece_backward : norm_piece;
    deal(one, n, pieces(n->rows, n->width), parallel, threads);
}

typedef struct {
    const float *x, *cosine, *sine; /* (tokens, heads, width), (tokens, width) twice */
    float *out;
    long tokens, heads, width; /* width: a multiple of 2 * LANES_MOST */
    int back;
} Rotation;

/* With halves 1 and 2 of a head: y1 = x1 c1 - x2 s1, y2 = x2 c2 + x1 s2. Back: dL/dx1 = g1 c1 + g2 s2,
dL/dx2 = g2 c2 - g1 s1. */
static void rotate_piece(const void *pointer, long item, long slot) {
    (void)slot;
    const Rotation *r = pointer;
    long d = r->width, half = d / 2, each = rows_a_piece(r->heads * d), end = (item + 1) * each;
    for (long t = item * each; t < (end < r->tokens ? end : r->tokens); t++) {
        const float *cosine = r->cosine + t * d, *sine = r->sine + t * d;
        for (long at = t * r->heads * d; at < (t + 1) * r->heads * d; at += d)
            for (long i = 0; i < half; i += LANES) {
                vec one = LOAD(r->x + at + i), two = LOAD(r->x + at + half + i);
                vec s1 = LOAD(sine + i), s2 = LOAD(sine + half + i);
                vec turned = r->back ? two * s2 : -two * s1;
                vec other = r->back ? -one * s1 : one * s2;
                STORE(r->out + at + i, one * LOAD(cosine + i) + turned);
                STORE(r->out + at + half + i, two * LOAD(cosine + half + i) + other);
            }
    }
}

void rotate(const Rotation *r, Parallel *parallel, int threads) {
    deal(rotate_piece, r, pieces(r->tokens, r->heads * r->width), parallel, threads);
}
