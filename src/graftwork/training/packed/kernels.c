/* The element-wise parts of a Llama-shaped layer, one pass over memory each; fp32, a row at a time.
   elementwise.py says what each computes and does the same with torch where there is no compiler. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "exponential.h"

static inline float sum_of_squares(const float *restrict x, int64_t width) {
    float sum = 0.0f;
    for (int64_t i = 0; i < width; i++) sum += x[i] * x[i];
    return sum;
}

void norm(const float *restrict x, const float *restrict weight, float *restrict out, float *restrict scale, int64_t rows, int64_t width, float eps) {
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        float s = 1.0f / sqrtf(sum_of_squares(x, width) / width + eps);
        scale[row] = s;
        for (int64_t i = 0; i < width; i++) out[i] = x[i] * s * weight[i];
    }
}

void norm_back(const float *restrict slope, const float *restrict x, const float *restrict weight, const float *restrict scale, float *restrict out,
               int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++, x += width, slope += width, out += width) {
        float s = scale[row], dot = 0.0f;
        for (int64_t i = 0; i < width; i++) dot += slope[i] * weight[i] * x[i];
        float mean = dot * s * s / width;
        for (int64_t i = 0; i < width; i++) out[i] = s * (slope[i] * weight[i] - x[i] * mean);
    }
}

/* x: token t, head h begins at x + t * stride + h * size; weight and scale may be null together. */
void turn(const float *restrict x, int64_t stride, const float *restrict cosine, const float *restrict sine, const float *restrict weight,
          float *restrict out, float *restrict scale, int64_t tokens, int64_t heads, int64_t size, float eps) {
    int64_t half = size / 2;
    for (int64_t t = 0; t < tokens; t++, cosine += size, sine += size)
        for (int64_t h = 0; h < heads; h++, out += size) {
            const float *restrict one = x + t * stride + h * size, *restrict two = one + half;
            float *restrict low = out, *restrict high = out + half;
            if (!weight) {
                for (int64_t i = 0; i < half; i++) {
                    low[i] = one[i] * cosine[i] - two[i] * sine[i];
                    high[i] = two[i] * cosine[i] + one[i] * sine[i];
                }
                continue;
            }
            float s = 1.0f / sqrtf(sum_of_squares(one, size) / size + eps);
            scale[t * heads + h] = s;
            for (int64_t i = 0; i < half; i++) {
                float a = one[i] * s * weight[i], b = two[i] * s * weight[half + i];
                low[i] = a * cosine[i] - b * sine[i];
                high[i] = b * cosine[i] + a * sine[i];
            }
        }
}

void turn_back(const float *restrict slope, const float *restrict x, int64_t stride, const float *restrict cosine, const float *restrict sine,
               const float *restrict weight, const float *restrict scale, float *restrict out, int64_t out_stride, int64_t tokens,
               int64_t heads, int64_t size) {
    int64_t half = size / 2;
    for (int64_t t = 0; t < tokens; t++, cosine += size, sine += size)
        for (int64_t h = 0; h < heads; h++, slope += size) {
            const float *restrict one = x + t * stride + h * size;
            float *into = out + t * out_stride + h * size, *high = into + half, dot = 0.0f;
            for (int64_t i = 0; i < half; i++) {
                into[i] = slope[i] * cosine[i] + slope[half + i] * sine[i];
                high[i] = slope[half + i] * cosine[i] - slope[i] * sine[i];
            }
            if (!weight) continue;
            float s = scale[t * heads + h];
            for (int64_t i = 0; i < size; i++) {
                into[i] *= weight[i];
                dot += into[i] * one[i];
            }
            float mean = dot * s * s / size;
            for (int64_t i = 0; i < size; i++) into[i] = s * (into[i] - one[i] * mean);
        }
}

void gate(const float *restrict both, float *restrict out, int64_t rows, int64_t half) {
    for (int64_t row = 0; row < rows; row++, both += 2 * half, out += half)
        for (int64_t i = 0; i < half; i++)
            out[i] = both[i] / (1.0f + exponential(-both[i])) * both[half + i];
}

void gate_back(const float *restrict slope, float *both, int64_t rows, int64_t half) {
    for (int64_t row = 0; row < rows; row++, slope += half) {
        float *restrict left = both + row * 2 * half, *restrict right = left + half;
        for (int64_t i = 0; i < half; i++) {
            float x = left[i], share = 1.0f / (1.0f + exponential(-x)), back = slope[i];
            left[i] = back * right[i] * share * (1.0f + x * (1.0f - share));
            right[i] = back * x * share;
        }
    }
}

/* Logits become the gradient where slopes are given, else garbage. */
void answer(float *restrict logits, const int64_t *targets, const float *restrict slopes, float *restrict losses, uint8_t *hits,
            int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; row++, logits += width) {
        float best = logits[0], chosen = logits[targets[row]], sum = 0.0f;
        for (int64_t i = 0; i < width; i++) best = logits[i] > best ? logits[i] : best;
        for (int64_t i = 0; i < width; i++) {
            logits[i] = exponential(logits[i] - best);
            sum += logits[i];
        }
        losses[row] = logf(sum) + best - chosen;
        hits[row] = chosen == best;
        if (!slopes) continue;
        float factor = slopes[row] / sum;
        for (int64_t i = 0; i < width; i++) logits[i] *= factor;
        logits[targets[row]] -= slopes[row];
    }
}

/* The sum of x's squares: in single precision for a thousand, then in double. */
void squares(const float *x, double *out, int64_t count) {
    double sum = 0.0;
    for (int64_t left = count; left > 0; left -= 1024, x += 1024) sum += sum_of_squares(x, left < 1024 ? left : 1024);
    *out = sum;
}
