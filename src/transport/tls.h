// Tls: TLS on the bytes of a connection. Between agents TLS 1.3 (RFC 8446). Both ends prove by it that they hold the cluster's token: it is the
// external pre-shared key, always with an ephemeral Diffie-Hellman exchange (psk_dhe_ke), so there are no certificates,
// and a token that leaks later opens nothing that was recorded (docs/decisions/0015-tls-by-the-token.md).
//
// Pure: bytes in, bytes out, by OpenSSL. Not synchronised, but that Space, Received and what is between them may run beside Write.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::transport {

class Tls {
 public:
  enum class Role { kConnecting, kAccepting };
  Tls(Role role, std::string_view token);
  // To a web server outside (TLS 1.2 or 1.3, HTTP/1.1 by ALPN), which shows a certificate for `host`, a name or an address, by an authority that this
  // machine trusts: OpenSSL's default ones, or those that SSL_CERT_FILE and SSL_CERT_DIR name.
  static std::unique_ptr<Tls> ToWebServer(const std::string& host);
  ~Tls();
  Tls(const Tls&) = delete;
  Tls& operator=(const Tls&) = delete;

  // Space for at least `bytes` that come from the peer, valid until the next call; Received says how many came.
  std::span<std::uint8_t> Space(std::size_t bytes);
  void Received(std::size_t bytes);
  // What has to be sent to the peer, in order; the caller takes it away after each call below.
  Bytes& outgoing();

  // Goes on with the handshake: true when it is done, false if the peer's next bytes are needed. kPermissionDenied: the peer
  // does not hold the token, or its certificate is not trusted; kCorrupt: it does not speak TLS, or its bytes were changed on the way.
  Result<bool> Handshake();
  // Takes decrypted bytes, after the handshake: how many, 0 if more must come first. kUnavailable: the peer ended the stream in
  // order; kCorrupt: its bytes were changed on the way.
  Result<std::size_t> Read(std::span<std::uint8_t> to);
  // Whether Read would give something without more from the peer, as far as can be told.
  bool HasInput() const;
  // Has the peer ended the stream in order? Where it has not, what came last may have been cut off on the way.
  bool ended() const;
  // Encrypts all of it, after the handshake.
  Status Write(ByteView bytes);

 private:
  struct Impl;
  explicit Tls(std::unique_ptr<Impl> impl);
  const std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::transport
