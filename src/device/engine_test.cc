// What of the engine no driver shows (conformance_test.cc has the rest).
#include "device/engine.h"

#include <gtest/gtest.h>

#include <atomic>

#include "device/conformance.h"

namespace godwit::device {
namespace {

// Counts how often it is begun; each run of its work is a piece, and the last of three ends it.
class Pieces final : public Function {
 public:
  class Piece final : public Work {
   public:
    Piece(int done, std::atomic<int>& alive) : done_(done), alive_(alive) { ++alive_; }
    ~Piece() override { --alive_; }
    Result<bool> Run(const Source& source, const Pace&, Bytes* output) override {
      output->push_back(static_cast<std::uint8_t>('0' + done_));
      read_ += source.size();
      return ++done_ == 3;
    }
    Result<Bytes> Save() override { return Bytes{static_cast<std::uint8_t>('0' + done_)}; }
    std::uint64_t read_bytes() const override { return read_; }

   private:
    int done_;
    std::atomic<int>& alive_;
    std::uint64_t read_ = 0;
  };
  std::string_view name() const override { return "pieces"; }
  Result<std::unique_ptr<Work>> Begin(ByteView, ByteView state, Part) const override {
    ++begun;
    return std::unique_ptr<Work>(std::make_unique<Piece>(state.empty() ? 0 : state[0] - '0', alive));
  }
  bool brief(ByteView, Part) const override { return false; }

  mutable std::atomic<int> begun{0}, alive{0};
};

class OneObject final : public Storage {
 public:
  std::atomic<bool> denied{false};
  Result<std::shared_ptr<const Source>> Open(const std::string&, const std::string& object) override {
    if (denied) return PermissionDenied("not any more");
    class Object final : public Source {
     public:
      explicit Object(bool file) : file_(file) {}
      std::uint64_t size() const override { return 10; }
      Result<ByteView> Window(std::uint64_t, std::size_t, Bytes&) const override { return ByteView(); }
      std::optional<int> file() const override { return file_ ? std::optional(0) : std::nullopt; }

     private:
      const bool file_;
    };
    return std::shared_ptr<const Source>(std::make_shared<Object>(object == "file"));
  }
  Status Create(const std::string&, const std::string&, ByteView) override { return Unsupported("not here"); }
};

class EngineTest : public ::testing::Test {
 protected:
  Completion Piece(const std::string& object, const Bytes& state, const std::string& tenant = "alice", std::string_view arguments = "") {
    Request request;
    request.id = ++id_;
    request.opcode = Opcode::kExecute;
    request.function = 1;
    request.tenant = tenant;
    request.name = object;
    request.state = state;
    request.data.assign(arguments.begin(), arguments.end());
    return engine_->Call(request);
  }

  void Start(std::chrono::milliseconds parked_for) {
    Engine::Options options;
    options.profile = {.name = "one", .device_class = "csd"};
    options.storage = storage_;
    options.built_in = {pieces_};
    options.parked_for = parked_for;
    engine_.emplace(std::move(options));
  }

  const std::shared_ptr<Pieces> pieces_ = std::make_shared<Pieces>();
  const std::shared_ptr<OneObject> storage_ = std::make_shared<OneObject>();
  std::optional<Engine> engine_;
  std::uint64_t id_ = 0;
};

TEST_F(EngineTest, WorkOverDataThatLiesHereGoesOnWhereItStands) {
  Start(std::chrono::hours(1));
  const Completion first = Piece("file", {});
  ASSERT_TRUE(first.status.ok() && first.more) << first.status.error().message;
  const Completion second = Piece("file", first.state);
  EXPECT_EQ(AsText(second.data), "1");
  EXPECT_EQ(second.read_bytes, 10u) << "of this piece";
  const Completion third = Piece("file", second.state);
  EXPECT_EQ(AsText(third.data), "2");
  EXPECT_FALSE(third.more);
  EXPECT_EQ(pieces_->begun, 1);
  EXPECT_EQ(pieces_->alive, 0) << "what has ended is not kept";
}

TEST_F(EngineTest, WhatIsKeptIsOfNoUseToWhoMayNotReadTheDataAnyMore) {
  Start(std::chrono::hours(1));
  const Completion first = Piece("file", {});
  ASSERT_TRUE(first.status.ok() && first.more);
  storage_->denied = true;
  const Completion second = Piece("file", first.state);
  ASSERT_FALSE(second.status.ok());
  EXPECT_EQ(second.status.error().code, ErrorCode::kPermissionDenied);
  EXPECT_TRUE(second.data.empty());
}

TEST_F(EngineTest, WorkGoesOnFromAStateWhereNothingIsKept) {
  Start(std::chrono::hours(1));
  const Completion first = Piece("file", {});
  EXPECT_EQ(AsText(Piece("file", first.state, "bob").data), "1");
  EXPECT_EQ(pieces_->begun, 2) << "another tenant's";
  EXPECT_EQ(AsText(Piece("file", {'2'}).data), "2");
  EXPECT_EQ(pieces_->begun, 3) << "from another state";
  EXPECT_EQ(AsText(Piece("file", first.state, "alice", "other").data), "1");
  EXPECT_EQ(pieces_->begun, 4) << "with other arguments";
  EXPECT_EQ(AsText(Piece("file", first.state).data), "1");
  EXPECT_EQ(AsText(Piece("file", first.state).data), "1") << "asked for again";
  EXPECT_EQ(pieces_->begun, 5);
  pieces_->begun = 0;
  const Completion fetched = Piece("elsewhere", {});
  EXPECT_EQ(AsText(Piece("elsewhere", fetched.state).data), "1");
  EXPECT_EQ(pieces_->begun, 2) << "data that does not lie here";
}

TEST_F(EngineTest, LittleIsKeptAndNotForLong) {
  Start(std::chrono::milliseconds(300));
  for (std::size_t i = 0; i < 2 * kParkedMax; ++i) EXPECT_TRUE(Piece("file", {}, std::string(1, static_cast<char>('a' + i))).more);
  EXPECT_LE(pieces_->alive, static_cast<int>(kParkedMax));
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  while (pieces_->alive > 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  EXPECT_EQ(pieces_->alive, 0) << "nobody came for them";
}

}  // namespace
}  // namespace godwit::device
