// A small neural net, trained by steepest descent: matrix times vector in single precision.
#include "kernel.h"

enum { IN = 64, HIDDEN = 96, OUT = 10, SAMPLES = 200, EPOCHS = 60 };
static float samples[SAMPLES][IN], first[HIDDEN][IN], second[OUT][HIDDEN];
static float hidden[HIDDEN], output[OUT], error_out[OUT], error_hidden[HIDDEN];

static float unit(uint32_t *seed) { return (float)(next_random(seed) >> 8) / 16777216.0f - 0.5f; }

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 777;
  for (int i = 0; i < SAMPLES; i++)
    for (int k = 0; k < IN; k++) samples[i][k] = unit(&seed) + (k % OUT == i % OUT ? 1.0f : 0.0f);
  for (int i = 0; i < HIDDEN; i++)
    for (int k = 0; k < IN; k++) first[i][k] = unit(&seed) * 0.25f;
  for (int i = 0; i < OUT; i++)
    for (int k = 0; k < HIDDEN; k++) second[i][k] = unit(&seed) * 0.25f;
  uint64_t right = 0;
  for (int epoch = 0; epoch < EPOCHS; epoch++)
    for (int s = 0; s < SAMPLES; s++) {
      const float *in = samples[s];
      // Accumulated over columns, so that the order of additions is the same whether vectorised or not.
      for (int i = 0; i < HIDDEN; i++) hidden[i] = 0;
      for (int i = 0; i < HIDDEN; i++) {
        float partial[4] = {0, 0, 0, 0};
        for (int k = 0; k < IN; k += 4)
          for (int j = 0; j < 4; j++) partial[j] += first[i][k + j] * in[k + j];
        const float total = (partial[0] + partial[1]) + (partial[2] + partial[3]);
        hidden[i] = total > 0 ? total : total * 0.01f;
      }
      int best = 0;
      for (int o = 0; o < OUT; o++) {
        float partial[4] = {0, 0, 0, 0};
        for (int k = 0; k < HIDDEN; k += 4)
          for (int j = 0; j < 4; j++) partial[j] += second[o][k + j] * hidden[k + j];
        output[o] = (partial[0] + partial[1]) + (partial[2] + partial[3]);
        error_out[o] = (s % OUT == o ? 1.0f : 0.0f) - output[o];
        if (output[o] > output[best]) best = o;
      }
      right += best == s % OUT;
      for (int i = 0; i < HIDDEN; i++) error_hidden[i] = 0;
      for (int o = 0; o < OUT; o++)
        for (int i = 0; i < HIDDEN; i++) {
          error_hidden[i] += error_out[o] * second[o][i];
          second[o][i] += 0.01f * error_out[o] * hidden[i];
        }
      for (int i = 0; i < HIDDEN; i++) {
        const float step = 0.01f * error_hidden[i] * (hidden[i] > 0 ? 1.0f : 0.01f);
        for (int k = 0; k < IN; k++) first[i][k] += step * in[k];
      }
    }
  uint64_t sum = mix(1, right);
  for (int o = 0; o < OUT; o++) sum = mix(sum, bits_of((double)output[o]));
  return sum;
}
