// A bytecode interpreter: one large function of many safepoints, calls through a table, and a heap of its own.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PUSH, ADD, SUB, MUL, DIV, MOD, DUP, SWAP, OVER, DROP, LOAD, STORE, JUMP, JZ, JN, CALL, RET, NATIVE, PRINT, HALT, XOR, SHL, SHR, LT, EQ };
typedef long long cell;
typedef cell native(cell *, int);

static cell gcd(cell *s, int top) {
  cell a = s[top - 1], b = s[top];
  while (b) {
    cell t = a % b;
    a = b;
    b = t;
  }
  return a;
}
static cell mix(cell *s, int top) {
  unsigned long long x = (unsigned long long)(s[top] * 31 + s[top - 1]);
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdull;
  return (cell)(x >> 8);
}
static cell text(cell *s, int top) {
  char buffer[64];
  return snprintf(buffer, sizeof buffer, "%lld:%llx", s[top], (unsigned long long)s[top - 1]) + buffer[0];
}
static native *const natives[] = {gcd, mix, text};

static cell run(const int *code, cell *memory, long limit) {
  cell stack[256];
  int calls[64];
  int top = -1, depth = 0;
  cell a, b, checks = 0;
  for (long pc = 0, steps = 0; steps < limit; steps++) {
    int op = code[pc++];
    switch (op) {
      case PUSH: stack[++top] = code[pc++]; break;
      case ADD: b = stack[top--]; stack[top] += b; break;
      case SUB: b = stack[top--]; stack[top] -= b; break;
      case MUL: b = stack[top--]; stack[top] *= b; break;
      case DIV: b = stack[top--]; if (b == 0) return -1; stack[top] /= b; break;
      case MOD: b = stack[top--]; if (b == 0) return -2; stack[top] %= b; break;
      case XOR: b = stack[top--]; stack[top] ^= b; break;
      case SHL: b = stack[top--]; stack[top] = (cell)((unsigned long long)stack[top] << (b & 63)); break;
      case SHR: b = stack[top--]; stack[top] >>= b & 63; break;
      case LT: b = stack[top--]; stack[top] = stack[top] < b; break;
      case EQ: b = stack[top--]; stack[top] = stack[top] == b; break;
      case DUP: a = stack[top]; stack[++top] = a; break;
      case SWAP: a = stack[top]; stack[top] = stack[top - 1]; stack[top - 1] = a; break;
      case OVER: a = stack[top - 1]; stack[++top] = a; break;
      case DROP: top--; break;
      case LOAD: stack[top] = memory[stack[top] & 1023]; break;
      case STORE: a = stack[top--]; memory[a & 1023] = stack[top--]; break;
      case JUMP: pc = code[pc]; break;
      case JZ: a = stack[top--]; pc = a == 0 ? code[pc] : pc + 1; break;
      case JN: a = stack[top--]; pc = a < 0 ? code[pc] : pc + 1; break;
      case CALL: calls[depth++] = (int)pc + 1; pc = code[pc]; break;
      case RET: pc = calls[--depth]; break;
      case NATIVE: a = natives[code[pc++]](stack, top); stack[--top] = a; checks += a & 0xff; break;
      case PRINT: printf("%lld ", stack[top]); break;
      case HALT: return stack[top] * 1000003 + checks;
    }
  }
  return -3;
}

int main(int argc, char **argv) {
  int n = argc > 1 ? atoi(argv[1]) : 50;
  static cell memory[1024];
  // memory[0] counts down from n; memory[1] gathers; memory[2 + ...] keep the last values.
  enum { SUBROUTINE = 48, END = 64 };
  int program[80] = {
      PUSH, n, PUSH, 0, STORE,
      /* 5 */ PUSH, 0, LOAD, JZ, END,
      /* 10 */ PUSH, 0, LOAD, PUSH, 12, CALL, SUBROUTINE,
      /* 17 */ DUP, PUSH, 1, LOAD, XOR, PUSH, 1, STORE,
      /* 25 */ PUSH, 0, LOAD, PUSH, 1022, MOD, PUSH, 2, ADD, STORE,
      /* 35 */ PUSH, 0, LOAD, PUSH, 1, SUB, PUSH, 0, STORE,
      /* 44 */ JUMP, 5,
  };
  // (a b -- a ^ text(mix(gcd(a, b) * b)))
  const int subroutine[] = {OVER, OVER, NATIVE, 0, MUL, DUP, PUSH, 17, NATIVE, 1, NATIVE, 2, XOR, RET};
  memcpy(program + SUBROUTINE, subroutine, sizeof subroutine);
  const int end[] = {PUSH, 1, LOAD, PRINT, HALT};
  memcpy(program + END, end, sizeof end);
  cell result = run(program, memory, 1000000000);
  printf("\n%lld\n", result);
  unsigned hash = 0;
  for (int i = 0; i < 1024; i++) hash = hash * 31 + (unsigned)memory[i];
  printf("%08x\n", hash);
  return 0;
}
