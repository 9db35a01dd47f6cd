// An interpreter of a stack machine's bytecode runs a program with loops, calls and memory: a switch in a loop.
#include "kernel.h"

enum op { PUSH, LOAD, STORE, ADD, SUB, MUL, MOD, LESS, JUMP, JUMP_ZERO, CALL, RETURN, DUP, FETCH, PUT, HALT };
struct instruction { uint8_t op; int32_t value; };
static int64_t heap[4096];

// collatz(n): steps until 1, memoised in the heap for small n; main sums it over 1..limit.
static const struct instruction program[] = {
    /*  0 */ {PUSH, 1}, {STORE, 0}, {PUSH, 0}, {STORE, 1},
    /*  4 */ {LOAD, 0}, {PUSH, 12000}, {LESS, 0}, {JUMP_ZERO, 18},
    /*  8 */ {LOAD, 0}, {CALL, 19}, {LOAD, 1}, {ADD, 0}, {STORE, 1},
    /* 13 */ {LOAD, 0}, {PUSH, 1}, {ADD, 0}, {STORE, 0}, {JUMP, 4},
    /* 18 */ {HALT, 0},
    /* 19 */ {STORE, 2}, {PUSH, 0}, {STORE, 3},
    /* 22 */ {LOAD, 2}, {PUSH, 2}, {LESS, 0}, {JUMP_ZERO, 28}, {LOAD, 3}, {RETURN, 0},
    /* 28 */ {LOAD, 3}, {PUSH, 1}, {ADD, 0}, {STORE, 3},
    /* 32 */ {LOAD, 2}, {PUSH, 2}, {MOD, 0}, {JUMP_ZERO, 43},
    /* 36 */ {LOAD, 2}, {PUSH, 3}, {MUL, 0}, {PUSH, 1}, {ADD, 0}, {STORE, 2}, {JUMP, 22},
    /* 43 */ {LOAD, 2}, {CALL, 47}, {STORE, 2}, {JUMP, 22},
    /* 47: half of the top, through the heap */ {DUP, 0}, {PUSH, 4095}, {MOD, 0}, {STORE, 4}, {LOAD, 4}, {PUT, 0},
    /* 53 */ {LOAD, 4}, {FETCH, 0}, {PUSH, -1}, {MUL, 0}, {RETURN, 0},
};

static int64_t run(void) {
  int64_t stack[64], locals[8] = {0};
  int32_t returns[16];
  int top = -1, depth = 0;
  for (const struct instruction *at = program;; at++) {
    switch ((enum op)at->op) {
      case PUSH: stack[++top] = at->value; break;
      case LOAD: stack[++top] = locals[at->value]; break;
      case STORE: locals[at->value] = stack[top--]; break;
      case ADD: top--; stack[top] += stack[top + 1]; break;
      case SUB: top--; stack[top] -= stack[top + 1]; break;
      case MUL: top--; stack[top] *= stack[top + 1]; break;
      case MOD: top--; stack[top] %= stack[top + 1]; break;
      case LESS: top--; stack[top] = stack[top] < stack[top + 1]; break;
      case JUMP: at = program + at->value - 1; break;
      case JUMP_ZERO:
        if (!stack[top--]) at = program + at->value - 1;
        break;
      case CALL:
        returns[depth++] = (int32_t)(at - program);
        at = program + at->value - 1;
        break;
      case RETURN: at = program + returns[--depth]; break;
      case DUP: stack[top + 1] = stack[top]; top++; break;
      case FETCH: stack[top] = heap[stack[top]]; break;
      case PUT: top -= 2; heap[stack[top + 2]] = -(stack[top + 1] / 2); break;
      case HALT: return locals[1];
    }
  }
}

static uint64_t kernel(int round) {
  (void)round;
  return mix(1, (uint64_t)run());
}
