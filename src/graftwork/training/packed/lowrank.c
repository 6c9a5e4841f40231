/* The adapters' own products for neighbouring adapters of one table, fp32. lowrank.py says what is computed and
   does the same with torch; a bank's row is laid out as bank.py says.

   weights and grads: of the first adapter, `stride` apart. In each: A [count * rank, in] at `a`, and for each of
   `count` members, by threes, where its B [outputs, rank] is, its outputs, and its first column of y.
   ends: where each adapter's tokens end; x, y and dy by the strides given, u and du [tokens, count * rank]. Ranks,
   inputs and outputs are multiples of EVEN. An adapter's work is cut into so many pieces, which no result crosses:
   bits do not depend on them. For pieces from first to last, adapter by adapter. */
#include "product.h"

#define EVEN 8
#define TABLE                                                                                                                  \
    const float *scales, const int64_t *ends, const int64_t *members, int64_t first, int64_t last, int64_t cuts,              \
        int64_t stride, int64_t a, int64_t in, int64_t rank, int64_t count

typedef struct {
    int64_t from, size;
} part;

/* A piece's part of so many, in steps of `even`. */
static part cut(int64_t size, int64_t piece, int64_t cuts, int64_t even) {
    int64_t from = size / even * (piece % cuts) / cuts * even;
    int64_t to = piece % cuts == cuts - 1 ? size : size / even * (piece % cuts + 1) / cuts * even;
    return (part){from, to - from};
}

/* u = scale x A', y += u B'. scratch: count * rank * in floats, or rank times the most outputs. */
void share(const float *x, const float *weights, float *u, float *y, float *scratch, TABLE, int64_t x_row, int64_t y_row) {
    int64_t wide = rank * count;
    for (int64_t piece = first; piece < last; piece++) {
        int64_t g = piece / cuts, start = g ? ends[g - 1] : 0;
        part mine = cut(ends[g] - start, piece, cuts, 1);
        const float *own = weights + g * stride;
        float *to = u + (start + mine.from) * wide, *out = y + (start + mine.from) * y_row;
        if (!mine.size) continue;
        turn_round(own + a, in, scratch, wide, wide, in);
        product(x + (start + mine.from) * x_row, x_row, 1, scratch, wide, to, wide, mine.size, in, wide, 0);
        for (int64_t i = 0; i < mine.size * wide; i++) to[i] *= scales[g];
        for (int64_t m = 0; m < count; m++) {
            int64_t b = members[3 * m], outputs = members[3 * m + 1], column = members[3 * m + 2];
            turn_round(own + b, rank, scratch, outputs, outputs, rank);
            product(to + m * rank, wide, 1, scratch, outputs, out + column, y_row, mine.size, rank, outputs, 1);
        }
    }
}

static void toward_a(const float *x, const float *du, float *grads, int64_t x_row, int64_t in, int64_t wide, int64_t tokens, part mine) {
    product(du, 1, wide, x + mine.from, x_row, grads + mine.from, in, wide, tokens, mine.size, 1);
}

/* Toward B, u (into du), where it is wanted x, and of a whole adapter A. */
void share_back(const float *dy, const float *x, const float *u, const float *weights, float *grads, float *du, float *dx, TABLE,
                int64_t dy_row, int64_t x_row, int64_t dx_row) {
    int64_t wide = rank * count;
    for (int64_t piece = first; piece < last; piece++) {
        int64_t g = piece / cuts, start = g ? ends[g - 1] : 0, tokens = ends[g] - start;
        part mine = cut(tokens, piece, cuts, 1);
        const float *own = weights + g * stride, *slope = dy + start * dy_row;
        float *to = du + (start + mine.from) * wide;
        if (!tokens) continue;
        for (int64_t m = 0; m < count; m++) {
            int64_t b = members[3 * m], outputs = members[3 * m + 1], column = members[3 * m + 2];
            part rows = cut(outputs, piece, cuts, 1);
            product(slope + column + rows.from, 1, dy_row, u + start * wide + m * rank, wide,
                    grads + g * stride + b + rows.from * rank, rank, rows.size, tokens, rank, 1);
            product(slope + mine.from * dy_row + column, dy_row, 1, own + b, rank, to + m * rank, wide, mine.size, outputs, rank, 0);
        }
        for (int64_t i = 0; i < mine.size * wide; i++) to[i] *= scales[g];
        if (cuts == 1) toward_a(x + start * x_row, to, grads + g * stride + a, x_row, in, wide, tokens, (part){0, in});
        if (dx) product(to, wide, 1, own + a, in, dx + (start + mine.from) * dx_row, dx_row, mine.size, wide, in, 1);
    }
}

/* Toward A, of all the du that `share_back` made in pieces. */
void share_back_a(const float *x, const float *du, float *grads, TABLE, int64_t x_row) {
    int64_t wide = rank * count;
    for (int64_t piece = first; piece < last; piece++) {
        int64_t g = piece / cuts, start = g ? ends[g - 1] : 0;
        toward_a(x + start * x_row, du + start * wide, grads + g * stride + a, x_row, in, wide, ends[g] - start,
                 cut(in, piece, cuts, EVEN));
    }
}
