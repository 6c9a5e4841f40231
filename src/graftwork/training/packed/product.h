/* Small matrix products in fp32, by vectors: what attend.c and lowrank.c are made of. */
#pragma once
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define WIDTH 16
#define MOST 6
#else
#define WIDTH 8
#define MOST 3
#endif
typedef float vec __attribute__((vector_size(4 * WIDTH), aligned(4), may_alias));
typedef float half __attribute__((vector_size(2 * WIDTH), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))

/* One tile of C stays in registers: `rows` of `vecs` vectors of type `kind`. */
#define TILE(name, kind)                                                                                                       \
    INLINE void name(int rows, int vecs, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_row, float *c,  \
                     int64_t c_row, int64_t depth, int add) {                                                                 \
        const int width = sizeof(kind) / sizeof(float);                                                                        \
        kind sum[2 * MOST][4];                                                                                                 \
        for (int r = 0; r < rows; r++)                                                                                         \
            for (int v = 0; v < vecs; v++) sum[r][v] = add ? *(const kind *)(c + r * c_row + v * width) : (kind){0};           \
        for (int64_t k = 0; k < depth; k++, a += a_k, b += b_row) {                                                            \
            kind right[4];                                                                                                     \
            for (int v = 0; v < vecs; v++) right[v] = *(const kind *)(b + v * width);                                          \
            for (int r = 0; r < rows; r++)                                                                                     \
                for (int v = 0; v < vecs; v++) sum[r][v] += a[r * a_row] * right[v];                                           \
        }                                                                                                                      \
        for (int r = 0; r < rows; r++)                                                                                         \
            for (int v = 0; v < vecs; v++) *(kind *)(c + r * c_row + v * width) = sum[r][v];                                   \
    }
TILE(tile, vec)
TILE(slim_tile, half)

#define ARGUMENTS a, a_row, a_k, b, b_row, c, c_row, depth, add
#define ROWS(name, tile)                                                                                                       \
    INLINE void name(int rows, int vecs, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_row, float *c,  \
                     int64_t c_row, int64_t depth, int add) {                                                                 \
        switch (rows) {                                                                                                        \
        case 1: tile(1, vecs, ARGUMENTS); break;                                                                               \
        case 2: tile(2, vecs, ARGUMENTS); break;                                                                               \
        case 3: tile(3, vecs, ARGUMENTS); break;                                                                               \
        case 4: tile(4, vecs, ARGUMENTS); break;                                                                               \
        case 5: tile(5, vecs, ARGUMENTS); break;                                                                               \
        case 6: tile(6, vecs, ARGUMENTS); break;                                                                               \
        default: tile(2 * MOST, vecs <= 2 ? vecs : 2, ARGUMENTS);                                                              \
        }                                                                                                                      \
    }
ROWS(rows_of, tile)
ROWS(slim_rows_of, slim_tile)

/* C [rows, columns] (+)= A B, C[r][c] (+)= sum over k of A(r, k) B[k][c]: A is read number by number through two
   strides, B and C by vectors. Columns are a multiple of WIDTH / 2. Narrow C has taller tiles: enough sums must be
   under way to hide how long one takes; a strip of B is at most DEEP high, so that it stays in the second cache.
   A number of C depends on its own row of A and column of B alone. */
#define DEEP 512
static void strip(const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
                    int64_t depth, int64_t columns, int add) {
    while (columns > 0) {
        int slim = columns < WIDTH, vecs = slim ? 1 : columns >= 4 * WIDTH ? 4 : (int)(columns / WIDTH);
        const float *a_all = a;
        float *c_all = c;
        for (int64_t left = rows; left > 0;) {
            int now = vecs <= 2 && left >= 2 * MOST ? 2 * MOST : left < MOST ? (int)left : MOST;
            if (slim) slim_rows_of(now, 1, ARGUMENTS);
            else if (vecs == 4) rows_of(now, 4, ARGUMENTS);
            else if (vecs == 3) rows_of(now, 3, ARGUMENTS);
            else if (vecs == 2) rows_of(now, 2, ARGUMENTS);
            else rows_of(now, 1, ARGUMENTS);
            left -= now, a += now * a_row, c += now * c_row;
        }
        int64_t done = slim ? WIDTH / 2 : vecs * WIDTH;
        a = a_all, b += done, c = c_all + done, columns -= done;
    }
}

static void product(const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t b_row, float *c, int64_t c_row, int64_t rows,
                    int64_t depth, int64_t columns, int add) {
    for (int64_t k = 0; k == 0 || k < depth; k += DEEP, add = 1)
        strip(a + k * a_k, a_row, a_k, b + k * b_row, b_row, c, c_row, rows, depth - k < DEEP ? depth - k : DEEP, columns, add);
}

#if WIDTH == 16
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH(x, y) __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define LOW(x, y) __builtin_shufflevector(x, y, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH(x, y) __builtin_shufflevector(x, y, 4, 12, 5, 13, 6, 14, 7, 15)
#endif

/* A square of WIDTH by WIDTH: interleaving the first half of the rows with the second, log2 WIDTH times. */
INLINE void turn_square(const float *x, int64_t stride, float *out, int64_t wide) {
    vec one[WIDTH], two[WIDTH];
    for (int i = 0; i < WIDTH; i++) one[i] = *(const vec *)(x + i * stride);
    for (int turn = 1; turn < WIDTH; turn *= 2) {
        for (int i = 0; i < WIDTH / 2; i++) {
            two[2 * i] = LOW(one[i], one[i + WIDTH / 2]);
            two[2 * i + 1] = HIGH(one[i], one[i + WIDTH / 2]);
        }
        memcpy(one, two, sizeof one);
    }
    for (int i = 0; i < WIDTH; i++) *(vec *)(out + i * wide) = one[i];
}

/* [length, size] to [size, wide], zeros beyond the length. */
static void turn_round(const float *x, int64_t stride, float *out, int64_t length, int64_t wide, int64_t size) {
    int64_t squares = length / WIDTH * WIDTH, across = size / WIDTH * WIDTH;
    for (int64_t t = 0; t < squares; t += WIDTH)
        for (int64_t d = 0; d < across; d += WIDTH) turn_square(x + t * stride + d, stride, out + d * wide + t, wide);
    for (int64_t d = 0; d < size; d++) {
        for (int64_t t = d < across ? squares : 0; t < length; t++) out[d * wide + t] = x[t * stride + d];
        for (int64_t t = length; t < wide; t++) out[d * wide + t] = 0.0f;
    }
}
