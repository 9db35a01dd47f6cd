// Tls: TLS 1.3 (RFC 8446) on the bytes between two agents. Both ends prove by it that they hold the cluster's token: it is the
// external pre-shared key, always with an ephemeral Diffie-Hellman exchange (psk_dhe_ke), so there are no certificates,
// and a token that leaks later opens nothing that was recorded (docs/decisions/0015-tls-by-the-token.md).
//
// Pure: bytes in, bytes out, by OpenSSL. Not synchronised, but that Space, Received and what is between them may run beside Write.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::transport {

class Tls {
 public:
  enum class Role { kConnecting, kAccepting };
  Tls(Role role, std::string_view token);
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // Space for at least `bytes` that come from the peer, valid until the next call; Received says how many came.
  std::span<std::uint8_t> Space(std::size_t bytes);
  void Received(std::size_t bytes);
  // What has to be sent to the peer, in order; the caller takes it away after each call below.
  Bytes& outgoing();

  // Goes on with the handshake: true when it is done, false if the peer's next bytes are needed. kPermissionDenied: the peer
  // does not hold the token; kCorrupt: it does not speak TLS 1.3, or its bytes were changed on the way.
  Result<bool> Handshake();
  // Takes decrypted bytes, after the handshake: how many, 0 if more must come first. kUnavailable: the peer ended the stream in
  // order; kCorrupt: its bytes were changed on the way.
  Result<std::size_t> Read(std::span<std::uint8_t> to);
  // Whether Read would give something without more from the peer, as far as can be told.
  bool HasInput() const;
  // Encrypts all of it, after the handshake.
  Status Write(ByteView bytes);

 private:
  struct Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::transport
