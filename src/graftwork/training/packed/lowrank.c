/* The adapters' own products for neighbouring adapters of one table, fp32. lowrank.py says what is computed and
   does the same with torch; a bank's row is laid out as bank.py says.

   weights and grads: of the first adapter, `stride` apart. In each: A [count * rank, in] at `a`, and for each of
   `count` members, by threes, where its B [outputs, rank] is, its outputs, and its first column of y.
   ends: where each adapter's tokens end; x, y and dy by the strides given, u and du [tokens, count * rank]. Ranks,
   inputs and outputs are multiples of WIDTH / 2. For adapters from first to last. */
#include "product.h"

#define TABLE                                                                                                                  \
    const float *scales, const int64_t *ends, const int64_t *members, int64_t first, int64_t last, int64_t stride, int64_t a,  \
        int64_t in, int64_t rank, int64_t count

/* u = scale x A', y += u B'. scratch: count * rank * in floats, or rank times the most outputs. */
void share(const float *x, const float *weights, float *u, float *y, float *scratch, TABLE, int64_t x_row, int64_t y_row) {
    int64_t wide = rank * count;
    for (int64_t g = first; g < last; g++) {
        int64_t start = g ? ends[g - 1] : 0, tokens = ends[g] - start;
        const float *own = weights + g * stride;
        float *mine = u + start * wide;
        if (!tokens) continue;
        turn_round(own + a, in, scratch, wide, wide, in);
        product(x + start * x_row, x_row, 1, scratch, wide, mine, wide, tokens, in, wide, 0);
        for (int64_t i = 0; i < tokens * wide; i++) mine[i] *= scales[g];
        for (int64_t m = 0; m < count; m++) {
            int64_t b = members[3 * m], outputs = members[3 * m + 1], column = members[3 * m + 2];
            turn_round(own + b, rank, scratch, outputs, outputs, rank);
            product(mine + m * rank, wide, 1, scratch, outputs, y + start * y_row + column, y_row, tokens, rank, outputs, 1);
        }
    }
}

/* Toward B, u (into du), A, and where it is wanted x. */
void share_back(const float *dy, const float *x, const float *u, const float *weights, float *grads, float *du, float *dx, TABLE,
                int64_t dy_row, int64_t x_row, int64_t dx_row) {
    int64_t wide = rank * count;
    for (int64_t g = first; g < last; g++) {
        int64_t start = g ? ends[g - 1] : 0, tokens = ends[g] - start;
        const float *own = weights + g * stride, *slope = dy + start * dy_row;
        float *into = grads + g * stride, *mine = du + start * wide;
        if (!tokens) continue;
        for (int64_t m = 0; m < count; m++) {
            int64_t b = members[3 * m], outputs = members[3 * m + 1], column = members[3 * m + 2];
            product(slope + column, 1, dy_row, u + start * wide + m * rank, wide, into + b, rank, outputs, tokens, rank, 1);
            product(slope + column, dy_row, 1, own + b, rank, mine + m * rank, wide, tokens, outputs, rank, 0);
        }
        for (int64_t i = 0; i < tokens * wide; i++) mine[i] *= scales[g];
        product(mine, 1, wide, x + start * x_row, x_row, into + a, in, wide, tokens, in, 1);
        if (dx) product(mine, wide, 1, own + a, in, dx + start * dx_row, dx_row, tokens, wide, in, 1);
    }
}
