// iostream, maps, strings, algorithms, virtual calls, lambdas; no exceptions.
#include <algorithm>
#include <deque>
#include <functional>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

struct Shape {
  virtual ~Shape() = default;
  virtual double Area() const = 0;
  virtual std::string Name() const = 0;
};
struct Square : Shape {
  double side;
  explicit Square(double side) : side(side) {}
  double Area() const override { return side * side; }
  std::string Name() const override { return "square"; }
};
struct Circle : Shape {
  double radius;
  explicit Circle(double radius) : radius(radius) {}
  double Area() const override { return radius * radius * 3.25; }
  std::string Name() const override { return "circle"; }
};

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::stoi(argv[1]) : 2;
  std::map<std::string, std::vector<int>> words;
  std::unordered_map<int, std::string> names;
  std::deque<int> queue;
  unsigned seed = 12345;
  for (int round = 0; round < rounds; ++round) {
    std::ostringstream text;
    for (int i = 0; i < 100; ++i) {
      seed = seed * 1664525 + 1013904223;
      text << "w" << seed % 50 << ' ' << std::setw(4) << std::setfill('0') << i << ' ';
    }
    std::istringstream in(text.str());
    std::string word;
    int number;
    while (in >> word >> number) words[word].push_back(number);
    for (auto& [key, list] : words) {
      std::sort(list.begin(), list.end(), std::greater<>());
      list.erase(std::unique(list.begin(), list.end()), list.end());
      names[static_cast<int>(list.size())] = key;
      queue.push_front(list.front());
      if (queue.size() > 300) queue.pop_back();
    }
    std::vector<std::unique_ptr<Shape>> shapes;
    for (int i = 1; i < 20; ++i) {
      if (i % 2) shapes.push_back(std::make_unique<Square>(i * 0.5));
      else shapes.push_back(std::make_unique<Circle>(i * 0.25));
    }
    std::sort(shapes.begin(), shapes.end(), [](const auto& a, const auto& b) { return a->Area() < b->Area(); });
    const double area = std::accumulate(shapes.begin(), shapes.end(), 0.0, [](double sum, const auto& s) { return sum + s->Area(); });
    if (round % 20 == 0) {
      std::cout << round << ' ' << std::fixed << std::setprecision(4) << area << ' ' << shapes.front()->Name() << ' '
                << std::accumulate(queue.begin(), queue.end(), 0L) << ' ' << std::hex << seed << std::dec << '\n';
    }
  }
  std::set<std::string> ordered;
  for (const auto& [size, name] : names) ordered.insert(name + ":" + std::to_string(size));
  for (const std::string& entry : ordered) std::cout << entry << ' ';
  std::cout << '\n' << words.size() << '\n';
}
