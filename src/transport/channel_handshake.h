// The first words on a channel: both ends prove that they hold the cluster's token, without showing it, and say
// who they are (docs/formats/channel.md, Handshake). Pure: bytes in, bytes out.
//
//   connecting end                  accepting end
//   hello(nonce, identity)    -->
//                             <--   challenge(nonce, identity, proof)  or verdict(error)
//   proof                     -->
//                             <--   verdict
//
// A proof is HMAC-SHA256 with the token as key over a label that names the end, the hello and the challenge, so it
// cannot be replayed or reflected. Each message is preceded by its length as a u32.
#pragma once

#include <array>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/channel.h"

namespace godwit::transport {

inline constexpr std::size_t kHandshakeBytesMax = 1024;  // Of one message.
using Nonce = std::array<std::uint8_t, 32>;
Nonce RandomNonce();

class ConnectingHandshake {
 public:
  ConnectingHandshake(const ChannelIdentity& self, std::string token, const Nonce& nonce);
  const Bytes& hello() const { return hello_; }
  // The accepting end's answer; on success the proof to send. kPermissionDenied: it does not hold the token or
  // says that we do not; kUnsupported: another version; kCorrupt: none of ours.
  Result<Bytes> OnChallenge(ByteView message);
  Status OnVerdict(ByteView message) const;
  const ChannelIdentity& peer() const { return peer_; }  // After OnChallenge.

 private:
  const std::string token_;
  Bytes hello_;
  ChannelIdentity peer_;
};

class AcceptingHandshake {
 public:
  AcceptingHandshake(const ChannelIdentity& self, std::string token, const Nonce& nonce);
  // The challenge to send. On failure send Verdict(the error) and close.
  Result<Bytes> OnHello(ByteView message);
  // kPermissionDenied unless the peer holds the token.
  Status OnProof(ByteView message) const;
  static Bytes Verdict(const Status& status);
  const ChannelIdentity& peer() const { return peer_; }

 private:
  const ChannelIdentity self_;
  const std::string token_;
  const Nonce nonce_;
  Bytes hello_, challenge_;
  ChannelIdentity peer_;
};

}  // namespace godwit::transport
