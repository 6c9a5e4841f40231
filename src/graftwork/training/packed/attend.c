/* Causal attention of packed rows, fp32: each row of tokens to itself, forward and backward, with grouped
   queries and sliding windows. attention.py says what is computed and does the same with torch.

   All six products are one routine (product.h). Keys and values are turned round once for all queries of a group;
   scores exist for BLOCK queries at a time (Dao 2023, arXiv:2307.08691, without its outer tiling: the keys of
   one row and one head fit the second cache). */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"
#include "product.h"

#define BLOCK 32

typedef struct {
    int64_t from, to, wide; /* keys that a block of queries sees: [from, to), and how many vectors hold */
} span;

static span seen(int64_t first, int64_t count, int64_t window) {
    int64_t from = window > 0 && first - window + 1 > 0 ? (first - window + 1) / WIDTH * WIDTH : 0;
    int64_t to = first + count;
    return (span){from, to, (to - from + WIDTH - 1) / WIDTH * WIDTH};
}

/* Of a row of scores what query i may not see becomes 0, the rest exp(scale * score - shift); their sum. */
static float weigh(float *restrict row, span keys, int64_t i, int64_t window, float scale, float shift) {
    int64_t first = window > 0 && i - window + 1 > keys.from ? i - window + 1 - keys.from : 0, end = i + 1 - keys.from;
    float sum = 0.0f;
    for (int64_t j = 0; j < first; j++) row[j] = 0.0f;
    for (int64_t j = first; j < end; j++) {
        row[j] = exponential(row[j] * scale - shift);
        sum += row[j];
    }
    for (int64_t j = end; j < keys.wide; j++) row[j] = 0.0f;
    return sum;
}

static float greatest(const float *row, span keys, int64_t i, int64_t window) {
    int64_t first = window > 0 && i - window + 1 > keys.from ? i - window + 1 - keys.from : 0, end = i + 1 - keys.from;
    float best = row[first];
    for (int64_t j = first; j < end; j++) best = row[j] > best ? row[j] : best;
    return best;
}

/* For pairs of a row and a kv head, row by row, from first to last. query and out [T, heads, size], key and
   value [T, kv heads, size], by the strides given; out and logs [T, heads] without gaps. Window: a token sees so many, itself included; 0: all before it. scratch holds
   (size + BLOCK) * (longest + WIDTH) floats, twice that for the way back. */
void attend(const float *query, const float *key, const float *value, float *out, float *logs, const int64_t *starts,
            const int64_t *lengths, float *scratch, int64_t first, int64_t last, int64_t heads, int64_t kv_heads, int64_t size,
            int64_t q_token, int64_t q_head, int64_t k_token, int64_t k_head, int64_t v_token, int64_t v_head, int64_t window,
            float scale) {
    int64_t group = heads / kv_heads, o_token = heads * size;
    for (int64_t pair = first; pair < last; pair++) {
        int64_t row = pair / kv_heads, g = pair % kv_heads;
        int64_t start = starts[row], length = lengths[row], wide = (length + WIDTH - 1) / WIDTH * WIDTH;
        const float *v = value + start * v_token + g * v_head;
        float *turned = scratch, *scores = scratch + size * wide;
        turn_round(key + start * k_token + g * k_head, k_token, turned, length, wide, size);
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t i = 0; i < length; i += BLOCK) {
                int64_t count = length - i < BLOCK ? length - i : BLOCK;
                span keys = seen(i, count, window);
                const float *q = query + (start + i) * q_token + h * q_head;
                product(q, q_token, 1, turned + keys.from, wide, scores, wide, count, size, keys.wide, 0);
                for (int64_t r = 0; r < count; r++) {
                    float *mine = scores + r * wide, best = scale * greatest(mine, keys, i + r, window);
                    float sum = weigh(mine, keys, i + r, window, scale, best), share = 1.0f / sum;
                    for (int64_t j = 0; j < keys.wide; j++) mine[j] *= share;
                    logs[(start + i + r) * heads + h] = best + logf(sum);
                }
                product(scores, wide, 1, v + keys.from * v_token, v_token, out + (start + i) * o_token + h * size, o_token, count,
                        keys.to - keys.from, size, 0);
            }
    }
}

/* Gradients of query, key and value, without gaps; slope and out [T, heads, size] without gaps. */
void attend_back(const float *slope, const float *query, const float *key, const float *value, const float *out, const float *logs,
                 float *d_query, float *d_key, float *d_value, const int64_t *starts, const int64_t *lengths, float *scratch,
                 int64_t first, int64_t last, int64_t heads, int64_t kv_heads, int64_t size, int64_t q_token, int64_t q_head, int64_t k_token,
                 int64_t k_head, int64_t v_token, int64_t v_head, int64_t window, float scale) {
    int64_t group = heads / kv_heads, o_token = heads * size, kv_token = kv_heads * size;
    for (int64_t pair = first; pair < last; pair++) {
        int64_t row = pair / kv_heads, g = pair % kv_heads;
        int64_t start = starts[row], length = lengths[row], wide = (length + WIDTH - 1) / WIDTH * WIDTH;
        const float *k = key + start * k_token + g * k_head;
        float *keys_turned = scratch, *values_turned = keys_turned + size * wide;
        float *weights = values_turned + size * wide, *slopes = weights + BLOCK * wide;
        float *dk = d_key + start * kv_token + g * size, *dv = d_value + start * kv_token + g * size;
        turn_round(k, k_token, keys_turned, length, wide, size);
        turn_round(value + start * v_token + g * v_head, v_token, values_turned, length, wide, size);
        for (int64_t t = 0; t < length; t++) {
            memset(dk + t * kv_token, 0, size * sizeof(float));
            memset(dv + t * kv_token, 0, size * sizeof(float));
        }
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t i = 0; i < length; i += BLOCK) {
                int64_t count = length - i < BLOCK ? length - i : BLOCK;
                span keys = seen(i, count, window);
                const float *q = query + (start + i) * q_token + h * q_head;
                const float *toward = slope + (start + i) * o_token + h * size, *made = out + (start + i) * o_token + h * size;
                product(q, q_token, 1, keys_turned + keys.from, wide, weights, wide, count, size, keys.wide, 0);
                product(toward, o_token, 1, values_turned + keys.from, wide, slopes, wide, count, size, keys.wide, 0);
                for (int64_t r = 0; r < count; r++) {
                    float *weight = weights + r * wide, *mine = slopes + r * wide, mean = 0.0f;
                    weigh(weight, keys, i + r, window, scale, logs[(start + i + r) * heads + h]);
                    for (int64_t d = 0; d < size; d++) mean += toward[r * o_token + d] * made[r * o_token + d];
                    for (int64_t j = 0; j < keys.wide; j++) mine[j] = weight[j] == 0.0f ? 0.0f : weight[j] * (mine[j] - mean) * scale;
                }
                product(slopes, wide, 1, k + keys.from * k_token, k_token, d_query + (start + i) * o_token + h * size, o_token, count,
                        keys.to - keys.from, size, 0);
                product(slopes, 1, wide, q, q_token, dk + keys.from * kv_token, kv_token, keys.to - keys.from, count, size, 1);
                product(weights, 1, wide, toward, o_token, dv + keys.from * kv_token, kv_token, keys.to - keys.from, count, size, 1);
            }
    }
}
