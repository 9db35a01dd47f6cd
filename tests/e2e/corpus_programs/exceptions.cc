// Exceptions of all sorts through destructors, recursion, callbacks, loops and containers; an argument scales the work.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct Base {
  virtual ~Base() = default;
  int x = 1;
};
struct Other {
  virtual ~Other() = default;
  int y = 2;
};
struct Derived : Other, Base {
  explicit Derived(int z) : z(z) { x = z * 10; }
  int z;
};

static long g_alive = 0;
struct Guard {
  int id;
  explicit Guard(int id) : id(id) { ++g_alive; }
  Guard(const Guard& other) : id(other.id) { ++g_alive; }
  ~Guard() { --g_alive; }
};

static int g_depth_seen = 0;

__attribute__((noinline)) static int Raise(int kind, const std::string& text) {
  Guard guard(kind);
  switch (kind) {
    case 0: throw 42;
    case 1: throw std::runtime_error("runtime " + text);
    case 2: throw Derived(7);
    case 3: {
      static Derived kept(9);
      throw static_cast<Base*>(&kept);
    }
    case 4: return std::vector<int>(3).at(static_cast<std::size_t>(kind));
    case 5:
      try {
        Raise(0, text);
      } catch (...) {
        Guard inner(50);
        throw;
      }
      return -1;
    case 6:
      try {
        Raise(1, text);
      } catch (const std::exception& e) {
        throw std::logic_error(std::string("nested ") + e.what());
      }
      return -1;
    case 7: throw 3.25;
    case 8: throw std::make_unique<int>(88);
    case 9:
      try {
        try {
          throw std::string("inner");
        } catch (const std::string& s) {
          try {
            throw s.size();
          } catch (std::size_t n) {
            throw static_cast<int>(n) + 1000;
          }
        }
      } catch (int n) {
        return n;
      }
      return -1;
    default: return kind;
  }
}

__attribute__((noinline)) static int Descend(int depth, int kind) {
  Guard guard(depth);
  g_depth_seen = std::max(g_depth_seen, depth);
  if (depth == 0) return Raise(kind, "deep");
  try {
    return Descend(depth - 1, kind) + 1;
  } catch (const std::logic_error&) {
    if (depth % 5 != 0) throw;
    return -depth;
  }
}

static std::string Describe(const std::function<int()>& work) {
  char text[96];
  try {
    std::snprintf(text, sizeof text, "%d", work());
  } catch (int i) {
    std::snprintf(text, sizeof text, "int %d", i);
  } catch (const std::out_of_range&) {  // Each library has its own words.
    std::snprintf(text, sizeof text, "out of range");
  } catch (const std::logic_error& e) {
    std::snprintf(text, sizeof text, "logic %s", e.what());
  } catch (const std::exception& e) {
    std::snprintf(text, sizeof text, "exception %s", e.what());
  } catch (const Base& b) {
    std::snprintf(text, sizeof text, "Base %d", b.x);
  } catch (Base* b) {
    std::snprintf(text, sizeof text, "Base* %d", b->x);
  } catch (const std::unique_ptr<int>& p) {
    std::snprintf(text, sizeof text, "pointer %d", *p);
  } catch (...) {
    std::snprintf(text, sizeof text, "something");
  }
  return text;
}

static int CompareOrThrow(const void* a, const void* b) {
  const int x = *static_cast<const int*>(a), y = *static_cast<const int*>(b);
  if ((x == 13) != (y == 13)) throw 13;  // However a library's sort pairs them, each is compared with some other.
  return (x > y) - (x < y);
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 3;
  std::map<std::string, int> seen;
  for (int round = 0; round < rounds; ++round) {
    for (int kind = 0; kind < 12; ++kind) {
      ++seen[Describe([&] { return Raise(kind, std::to_string(round % 3)); })];
      ++seen["deep: " + Describe([&] { return Descend(3 + (round * 7 + kind) % 20, kind); })];
    }
    // Out of a library's loop that knows no exceptions: the program is linked with the library's code as it is.
    std::vector<int> numbers;
    for (int i = 0; i < 20; ++i) numbers.push_back((i * 7 + round) % 23);
    try {
      std::sort(numbers.begin(), numbers.end(), [](int a, int b) { return CompareOrThrow(&a, &b) < 0; });
      ++seen["sorted"];
    } catch (int thrown) {
      ++seen["thrown from a comparison: " + std::to_string(thrown)];
    }
    int i = 0, sum = 0;
    while (true) {
      try {
        for (;; ++i) {
          if (i % 10 == 9) throw i;
          sum += i;
          if (i > 100) throw "end";
        }
      } catch (int at) {
        i = at + 1;
        continue;
      } catch (const char*) {
        break;
      }
    }
    ++seen["loop " + std::to_string(sum)];
  }
  for (const auto& [what, count] : seen) std::printf("%s: %d\n", what.c_str(), count);
  std::printf("alive %ld, deepest %d\n", g_alive, g_depth_seen);
}
