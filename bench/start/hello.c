// Says one word as soon as it runs: what is timed is the way to it.
#include <unistd.h>

int main(void) { return write(1, "x", 1) == 1 ? 0 : 1; }
