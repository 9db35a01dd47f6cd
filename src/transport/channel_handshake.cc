#include "transport/channel_handshake.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

namespace godwit::transport {

namespace {

enum class Kind : std::uint8_t { kHello = 1, kChallenge = 2, kProof = 3, kVerdict = 4 };
constexpr std::string_view kMagic = "GWCH";
constexpr std::size_t kProofBytes = 32;
constexpr std::size_t kVerdictTextMax = 512;
using Mac = std::array<std::uint8_t, kProofBytes>;

template <typename Integer>
void Put(Bytes& out, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i) out.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
}

// Takes values from the front of a message; `ok` turns false at the first that is not there.
struct Reader {
  ByteView rest;
  bool ok = true;
  ByteView Take(std::size_t n) {
    if (rest.size() < n) {
      ok = false;
      return {};
    }
    const ByteView taken = rest.first(n);
    rest = rest.subspan(n);
    return taken;
  }
  template <typename Integer>
  Integer Get() {
    Integer value = 0;
    const ByteView bytes = Take(sizeof value);
    for (std::size_t i = 0; i < bytes.size(); ++i) value |= static_cast<Integer>(bytes[i]) << (8 * i);
    return value;
  }
};

// Hello and challenge begin alike.
Bytes Introduce(Kind kind, const ChannelIdentity& self, const Nonce& nonce) {
  Bytes out(kMagic.begin(), kMagic.end());
  Put(out, static_cast<std::uint8_t>(kind));
  Put(out, kChannelVersion);
  out.insert(out.end(), nonce.begin(), nonce.end());
  Put(out, self.boot.value);
  Put(out, static_cast<std::uint8_t>(self.device.value.size()));
  out.insert(out.end(), self.device.value.begin(), self.device.value.end());
  return out;
}

Result<ChannelIdentity> ReadIntroduction(Reader& reader, Kind kind) {
  const ByteView magic = reader.Take(kMagic.size());
  const auto got = reader.Get<std::uint8_t>();
  const auto version = reader.Get<std::uint32_t>();
  if (!reader.ok || AsText(magic) != kMagic || got != static_cast<std::uint8_t>(kind)) {
    return Corrupt("the peer does not speak the agent channel's protocol");
  }
  if (version != kChannelVersion) {
    return Unsupported(fmt::format("the peer speaks version {} of the agent channel, this end version {}: run the same release on both",
                                   version, kChannelVersion));
  }
  reader.Take(sizeof(Nonce));
  ChannelIdentity identity;
  identity.boot.value = reader.Get<std::uint64_t>();
  identity.device.value = std::string(AsText(reader.Take(reader.Get<std::uint8_t>())));
  if (!reader.ok || identity.boot.value == 0) return Corrupt("the peer's introduction on the agent channel is damaged");
  GODWIT_TRY(model::CheckName("the peer's device name", identity.device.value));
  return identity;
}

Mac Prove(const std::string& token, std::string_view label, ByteView hello, ByteView challenge) {
  Bytes text(label.begin(), label.end());
  Put(text, static_cast<std::uint32_t>(hello.size()));
  text.insert(text.end(), hello.begin(), hello.end());
  text.insert(text.end(), challenge.begin(), challenge.end());
  Mac mac{};
  unsigned length = 0;
  const auto* done = HMAC(EVP_sha256(), token.data(), static_cast<int>(token.size()), text.data(), text.size(), mac.data(), &length);
  GODWIT_CHECK(done && length == mac.size(), "OpenSSL could not compute an HMAC");
  return mac;
}

constexpr std::string_view kAcceptingLabel = "godwit channel: accepting end\n";
constexpr std::string_view kConnectingLabel = "godwit channel: connecting end\n";

bool Equal(ByteView a, const Mac& b) { return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), b.size()) == 0; }

std::optional<Status> ReadVerdict(ByteView message) {
  Reader reader{message};
  if (AsText(reader.Take(kMagic.size())) != kMagic || reader.Get<std::uint8_t>() != static_cast<std::uint8_t>(Kind::kVerdict)) return std::nullopt;
  const auto code = reader.Get<std::uint8_t>();
  if (!reader.ok) return std::nullopt;
  if (code == 0) return Status();
  const bool known = code <= static_cast<std::uint8_t>(ErrorCode::kAborted);
  std::string text(AsText(reader.rest.first(std::min(reader.rest.size(), kVerdictTextMax))));
  std::replace_if(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, '?');
  return Error{known ? static_cast<ErrorCode>(code) : ErrorCode::kInternal, "the peer refused the channel: " + text};
}

}  // namespace

Nonce RandomNonce() {
  Nonce nonce;
  GODWIT_CHECK(RAND_bytes(nonce.data(), static_cast<int>(nonce.size())) == 1, "no randomness from OpenSSL");
  return nonce;
}

ConnectingHandshake::ConnectingHandshake(const ChannelIdentity& self, std::string token, const Nonce& nonce)
    : token_(std::move(token)), hello_(Introduce(Kind::kHello, self, nonce)) {}

Result<Bytes> ConnectingHandshake::OnChallenge(ByteView message) {
  if (const auto verdict = ReadVerdict(message)) {
    if (verdict->ok()) return Corrupt("the peer accepted the channel before it was asked to");
    return verdict->error();
  }
  Reader reader{message};
  GODWIT_ASSIGN(peer_, ReadIntroduction(reader, Kind::kChallenge));
  const ByteView challenge = message.first(message.size() - reader.rest.size());
  if (!Equal(reader.rest, Prove(token_, kAcceptingLabel, hello_, challenge))) {
    return PermissionDenied(fmt::format("device {} does not hold this cluster's token: check both ends' --token-file", peer_.device.value));
  }
  Bytes proof(kMagic.begin(), kMagic.end());
  Put(proof, static_cast<std::uint8_t>(Kind::kProof));
  const Mac mac = Prove(token_, kConnectingLabel, hello_, challenge);
  proof.insert(proof.end(), mac.begin(), mac.end());
  return proof;
}

Status ConnectingHandshake::OnVerdict(ByteView message) const {
  const auto verdict = ReadVerdict(message);
  if (!verdict) return Corrupt("the peer's verdict on the agent channel is damaged");
  return *verdict;
}

AcceptingHandshake::AcceptingHandshake(const ChannelIdentity& self, std::string token, const Nonce& nonce)
    : self_(self), token_(std::move(token)), nonce_(nonce) {}

Result<Bytes> AcceptingHandshake::OnHello(ByteView message) {
  Reader reader{message};
  GODWIT_ASSIGN(peer_, ReadIntroduction(reader, Kind::kHello));
  if (!reader.rest.empty()) return Corrupt("the peer's hello on the agent channel has bytes left over");
  hello_ = Bytes(message.begin(), message.end());
  challenge_ = Introduce(Kind::kChallenge, self_, nonce_);
  Bytes answer = challenge_;
  const Mac mac = Prove(token_, kAcceptingLabel, hello_, challenge_);
  answer.insert(answer.end(), mac.begin(), mac.end());
  return answer;
}

Status AcceptingHandshake::OnProof(ByteView message) const {
  Reader reader{message};
  const ByteView magic = reader.Take(kMagic.size());
  const auto kind = reader.Get<std::uint8_t>();
  if (!reader.ok || AsText(magic) != kMagic || kind != static_cast<std::uint8_t>(Kind::kProof)) {
    return Corrupt("the peer's proof on the agent channel is damaged");
  }
  if (!Equal(reader.rest, Prove(token_, kConnectingLabel, hello_, challenge_))) {
    return PermissionDenied(fmt::format("device {} does not hold this cluster's token: check both ends' --token-file", peer_.device.value));
  }
  return {};
}

Bytes AcceptingHandshake::Verdict(const Status& status) {
  Bytes out(kMagic.begin(), kMagic.end());
  Put(out, static_cast<std::uint8_t>(Kind::kVerdict));
  Put(out, status.ok() ? std::uint8_t{0} : static_cast<std::uint8_t>(status.error().code));
  if (!status.ok()) {
    const std::string_view text = std::string_view(status.error().message).substr(0, kVerdictTextMax);
    out.insert(out.end(), text.begin(), text.end());
  }
  return out;
}

}  // namespace godwit::transport
