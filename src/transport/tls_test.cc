#include "transport/tls.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

namespace godwit::transport {
namespace {

void Give(Bytes& from, Tls& to) {
  const auto space = to.Space(from.size());
  std::copy(from.begin(), from.end(), space.begin());
  to.Received(from.size());
  from.clear();
}

Result<Bytes> ReadAll(Tls& tls) {
  Bytes all, piece(100'000);
  while (true) {
    GODWIT_ASSIGN(const std::size_t n, tls.Read(piece));
    if (n == 0) return all;
    all.insert(all.end(), piece.begin(), piece.begin() + static_cast<std::ptrdiff_t>(n));
  }
}

class TlsTest : public ::testing::Test {
 protected:
  // How it ended at each end.
  struct Outcome {
    Result<bool> near = false, far = false;
  };
  Outcome Handshake(Tls& near, Tls& far) {
    Outcome outcome;
    for (int i = 0; i < 8 && outcome.near.ok() && outcome.far.ok() && !(*outcome.near && *outcome.far); ++i) {
      if (!*outcome.near) outcome.near = near.Handshake();
      if (!near.outgoing().empty()) Give(near.outgoing(), far);
      if (!*outcome.far) outcome.far = far.Handshake();
      if (!far.outgoing().empty()) Give(far.outgoing(), near);
    }
    if (outcome.near.ok() && !*outcome.near) outcome.near = near.Handshake();  // What the other end said at last.
    return outcome;
  }
  Tls near_{Tls::Role::kConnecting, "secret"};
  Tls far_{Tls::Role::kAccepting, "secret"};
};

TEST_F(TlsTest, CarriesBytesBothWaysAndNotInTheClear) {
  const Outcome outcome = Handshake(near_, far_);
  ASSERT_TRUE(outcome.near.ok() && *outcome.near && outcome.far.ok() && *outcome.far);
  Bytes sent(1'000'000);
  std::iota(sent.begin(), sent.end(), std::uint8_t{0});
  ASSERT_TRUE(near_.Write(sent).ok());
  const auto clear = std::search(near_.outgoing().begin(), near_.outgoing().end(), sent.begin(), sent.begin() + 16);
  EXPECT_EQ(clear, near_.outgoing().end());
  Give(near_.outgoing(), far_);
  EXPECT_TRUE(far_.HasInput());
  EXPECT_EQ(ReadAll(far_).value(), sent);
  EXPECT_FALSE(far_.HasInput());
  ASSERT_TRUE(far_.Write(ByteView(sent).first(10)).ok());
  Give(far_.outgoing(), near_);
  EXPECT_EQ(ReadAll(near_)->size(), 10u);
}

TEST_F(TlsTest, RefusesAnotherToken) {
  Tls other(Tls::Role::kAccepting, "another");
  const Outcome outcome = Handshake(near_, other);
  ASSERT_FALSE(outcome.far.ok());
  EXPECT_EQ(outcome.far.error().code, ErrorCode::kPermissionDenied) << outcome.far.error().message;
  ASSERT_FALSE(outcome.near.ok());
  EXPECT_EQ(outcome.near.error().code, ErrorCode::kPermissionDenied) << outcome.near.error().message;
}

TEST_F(TlsTest, AWebServerNeedsACertificateNotTheToken) {
  const auto web = Tls::ToWebServer("localhost");
  const Outcome outcome = Handshake(*web, far_);
  EXPECT_FALSE(outcome.near.ok() && *outcome.near);
  EXPECT_FALSE(outcome.far.ok() && *outcome.far);
}

TEST_F(TlsTest, RefusesWhatIsNotTls) {
  Bytes plain = {54, 0, 0, 0, 'G', 'W', 'C', 'H', 1, 1, 0, 0, 0, 0, 0, 0};
  Give(plain, far_);
  const auto result = far_.Handshake();
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kCorrupt);
  EXPECT_NE(result.error().message.find("does not speak TLS"), std::string::npos) << result.error().message;
}

TEST_F(TlsTest, WaitsForTheRestAndRefusesChangedBytes) {
  ASSERT_TRUE(Handshake(near_, far_).near.ok());
  const Bytes message(20'000, 7);
  ASSERT_TRUE(near_.Write(message).ok());
  Bytes all = std::move(near_.outgoing());
  Bytes head(all.begin(), all.begin() + 100), rest(all.begin() + 100, all.end());
  Give(head, far_);
  EXPECT_TRUE(ReadAll(far_)->empty());
  rest[rest.size() / 2] ^= 1;
  Give(rest, far_);
  const auto read = ReadAll(far_);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::kCorrupt);
}

TEST_F(TlsTest, EveryChangedByteOfTheHandshakeEndsIt) {
  Tls first(Tls::Role::kConnecting, "secret");
  ASSERT_TRUE(first.Handshake().ok());
  const Bytes hello = first.outgoing();
  for (std::size_t at = 0; at < hello.size(); at += 7) {
    Tls near(Tls::Role::kConnecting, "secret"), far(Tls::Role::kAccepting, "secret");
    ASSERT_TRUE(near.Handshake().ok());
    Bytes changed = near.outgoing();
    near.outgoing().clear();
    changed[at] ^= 0x40;
    Give(changed, far);
    auto accepted = far.Handshake();
    if (!far.outgoing().empty()) Give(far.outgoing(), near);
    auto connected = near.Handshake();
    if (!near.outgoing().empty()) Give(near.outgoing(), far);
    if (accepted.ok() && !*accepted) accepted = far.Handshake();
    EXPECT_FALSE(accepted.ok() && *accepted && connected.ok() && *connected) << "byte " << at;
  }
}

}  // namespace
}  // namespace godwit::transport
