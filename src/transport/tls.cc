#include "transport/tls.h"

#include <array>
#include <cstring>

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace godwit::transport {

namespace {

constexpr std::string_view kIdentity = "godwit cluster";
constexpr std::string_view kKeyLabel = "godwit: TLS 1.3 pre-shared key";
// Of one key: far below what AES-GCM allows (2^24.5 full records, RFC 8446 section 5.5).
constexpr std::uint64_t kBytesPerKey = 64ull << 30;
constexpr unsigned char kHttp11[] = "\x08http/1.1";  // RFC 7301, section 3.1.
constexpr unsigned char kAes128GcmSha256[] = {0x13, 0x01};  // The pre-shared key's hash is this suite's.

bool HasAesInstructions() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("aes") != 0;
#elif defined(__aarch64__)
  return (getauxval(AT_HWCAP) & HWCAP_AES) != 0;
#else
  return false;
#endif
}

using Key = std::array<std::uint8_t, 32>;

// HMAC as a pseudorandom function: the token itself is the key of the channel's own proofs as well.
Key KeyOf(std::string_view token) {
  Key key;
  unsigned length = 0;
  const auto* done = HMAC(EVP_sha256(), token.data(), static_cast<int>(token.size()),
                          reinterpret_cast<const unsigned char*>(kKeyLabel.data()), kKeyLabel.size(), key.data(), &length);
  GODWIT_CHECK(done && length == key.size(), "OpenSSL could not compute an HMAC");
  return key;
}

}  // namespace

struct Tls::Impl {
  SSL* ssl = nullptr;
  Key key{};
  std::string web_server;  // Empty: the peer is one of the cluster's.
  Bytes in;            // Of the peer; [begin, end) has not been taken by OpenSSL.
  std::size_t begin = 0, end = 0;
  Bytes out;
  std::uint64_t written = 0;  // With the present key.

  static Impl* Of(BIO* bio) { return static_cast<Impl*>(BIO_get_data(bio)); }
  static Impl* Of(const SSL* ssl) { return static_cast<Impl*>(SSL_get_app_data(ssl)); }
  static BIO_METHOD* Method();
  static SSL_CTX* Context(Role role);
  static SSL_CTX* WebContext();
  void Begin(SSL_CTX* context);
  static int UseKey(SSL* ssl, const EVP_MD* digest, const unsigned char** identity, std::size_t* identity_bytes, SSL_SESSION** session);
  static int FindKey(SSL* ssl, const unsigned char* identity, std::size_t identity_bytes, SSL_SESSION** session);
  SSL_SESSION* MakeSession() const;
  Error TakeError(const char* doing) const;
};

BIO_METHOD* Tls::Impl::Method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "godwit bytes");
    GODWIT_CHECK(made, "OpenSSL has no memory");
    BIO_meth_set_write_ex(made, [](BIO* bio, const char* data, std::size_t bytes, std::size_t* written) {
      Bytes& out = Of(bio)->out;
      const ByteView view = AsBytes({data, bytes});
      out.insert(out.end(), view.begin(), view.end());
      *written = bytes;
      return 1;
    });
    BIO_meth_set_read_ex(made, [](BIO* bio, char* data, std::size_t bytes, std::size_t* read) {
      Impl* impl = Of(bio);
      BIO_clear_retry_flags(bio);
      *read = std::min(bytes, impl->end - impl->begin);
      if (*read == 0) {
        BIO_set_retry_read(bio);
        return 0;
      }
      std::memcpy(data, impl->in.data() + impl->begin, *read);
      impl->begin += *read;
      return 1;
    });
    BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long { return command == BIO_CTRL_FLUSH ? 1 : 0; });
    return made;
  }();
  return method;
}

SSL_SESSION* Tls::Impl::MakeSession() const {
  SSL_SESSION* session = SSL_SESSION_new();
  GODWIT_CHECK(session && SSL_SESSION_set1_master_key(session, key.data(), key.size()) == 1 &&
                   SSL_SESSION_set_cipher(session, SSL_CIPHER_find(ssl, kAes128GcmSha256)) == 1 &&
                   SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1,
               "OpenSSL could not make a session of the pre-shared key");
  return session;
}

int Tls::Impl::UseKey(SSL* ssl, const EVP_MD* digest, const unsigned char** identity, std::size_t* identity_bytes, SSL_SESSION** session) {
  *session = nullptr;
  if (digest && EVP_MD_get_type(digest) != NID_sha256) return 1;  // No key for such a hash: the handshake will fail.
  *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
  *identity_bytes = kIdentity.size();
  *session = Of(ssl)->MakeSession();
  return 1;
}

int Tls::Impl::FindKey(SSL* ssl, const unsigned char* identity, std::size_t identity_bytes, SSL_SESSION** session) {
  *session = AsText({identity, identity_bytes}) == kIdentity ? Of(ssl)->MakeSession() : nullptr;
  return 1;
}

SSL_CTX* Tls::Impl::Context(Role role) {
  const auto make = [](const SSL_METHOD* method) {
    SSL_CTX* context = SSL_CTX_new(method);
    // Who has no instructions for AES asks for ChaCha20 first, and is followed in that.
    const char* const suites = HasAesInstructions() ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256"
                                                    : "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";
    GODWIT_CHECK(context && SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
                     SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 && SSL_CTX_set_ciphersuites(context, suites) == 1 &&
                     SSL_CTX_set1_groups_list(context, "X25519") == 1 && SSL_CTX_set_num_tickets(context, 0) == 1,
                 "OpenSSL offers no TLS 1.3");
    SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_psk_use_session_callback(context, UseKey);
    SSL_CTX_set_psk_find_session_callback(context, FindKey);
    return context;
  };
  static SSL_CTX* const connecting = [&] {
    SSL_CTX* context = make(TLS_client_method());
    // An end that would rather show a certificate than know the token is not ours: no certificate is trusted.
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    return context;
  }();
  static SSL_CTX* const accepting = make(TLS_server_method());
  return role == Role::kConnecting ? connecting : accepting;
}

SSL_CTX* Tls::Impl::WebContext() {
  static SSL_CTX* const context = [] {
    SSL_CTX* made = SSL_CTX_new(TLS_client_method());
    GODWIT_CHECK(made && SSL_CTX_set_min_proto_version(made, TLS1_2_VERSION) == 1 && SSL_CTX_set_alpn_protos(made, kHttp11, sizeof kHttp11 - 1) == 0,
                 "OpenSSL offers no TLS");
    SSL_CTX_set_default_verify_paths(made);  // Where there is none, no certificate is trusted.
    SSL_CTX_set_verify(made, SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_options(made, SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(made, SSL_MODE_RELEASE_BUFFERS);
    return made;
  }();
  return context;
}

void Tls::Impl::Begin(SSL_CTX* context) {
  ssl = SSL_new(context);
  BIO* bio = BIO_new(Method());
  GODWIT_CHECK(ssl && bio, "OpenSSL has no memory");
  BIO_set_data(bio, this);
  BIO_set_init(bio, 1);
  SSL_set_bio(ssl, bio, bio);
  SSL_set_app_data(ssl, this);
}

Error Tls::Impl::TakeError(const char* doing) const {
  const unsigned long code = ERR_peek_error();
  const int reason = ERR_GET_REASON(code);
  const char* text = ERR_reason_error_string(code);
  const std::string detail = text ? text : "no reason is known";
  ERR_clear_error();
  if (!web_server.empty()) {
    if (reason != SSL_R_CERTIFICATE_VERIFY_FAILED) return Corrupt(fmt::format("TLS with {}: {} failed: {}", web_server, doing, detail));
    return PermissionDenied(fmt::format("the certificate of {} is not trusted: {} (SSL_CERT_FILE names more authorities)", web_server, X509_verify_cert_error_string(SSL_get_verify_result(ssl))));
  }
  switch (reason) {
    case SSL_R_BINDER_DOES_NOT_VERIFY:
    case SSL_R_SSLV3_ALERT_ILLEGAL_PARAMETER:  // What the other end then says.
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return PermissionDenied("the peer does not hold this cluster's token: check both ends' --token-file");
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
      return Corrupt(fmt::format("the peer does not speak TLS ({}): an agent of another release, or one with --plaintext", detail));
    default: return Corrupt(fmt::format("TLS: {} failed: {}", doing, detail));
  }
}

Tls::Tls(Role role, std::string_view token) : impl_(std::make_unique<Impl>()) {
  impl_->key = KeyOf(token);
  impl_->Begin(Impl::Context(role));
  if (role == Role::kConnecting) SSL_set_connect_state(impl_->ssl);
  else SSL_set_accept_state(impl_->ssl);
}

Tls::Tls(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

std::unique_ptr<Tls> Tls::ToWebServer(const std::string& host) {
  auto impl = std::make_unique<Impl>();
  impl->web_server = host;
  impl->Begin(Impl::WebContext());
  SSL_set_connect_state(impl->ssl);
  X509_VERIFY_PARAM* const expected = SSL_get0_param(impl->ssl);
  if (X509_VERIFY_PARAM_set1_ip_asc(expected, host.c_str()) != 1) {
    ERR_clear_error();
    X509_VERIFY_PARAM_set_hostflags(expected, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    GODWIT_CHECK(X509_VERIFY_PARAM_set1_host(expected, host.c_str(), host.size()) == 1 && SSL_set_tlsext_host_name(impl->ssl, host.c_str()) == 1, "OpenSSL has no memory");
  }
  return std::unique_ptr<Tls>(new Tls(std::move(impl)));
}

Tls::~Tls() {
  SSL_free(impl_->ssl);
  OPENSSL_cleanse(impl_->key.data(), impl_->key.size());
}

std::span<std::uint8_t> Tls::Space(std::size_t bytes) {
  Impl& t = *impl_;
  if (t.begin == t.end) {
    t.begin = t.end = 0;
  } else if (t.in.size() - t.end < bytes) {
    std::memmove(t.in.data(), t.in.data() + t.begin, t.end - t.begin);
    t.end -= t.begin;
    t.begin = 0;
  }
  if (t.in.size() - t.end < bytes) t.in.resize(t.end + bytes);
  return std::span(t.in).subspan(t.end, bytes);
}

void Tls::Received(std::size_t bytes) {
  GODWIT_CHECK(bytes <= impl_->in.size() - impl_->end, "more has come than there was space for");
  impl_->end += bytes;
}

Bytes& Tls::outgoing() { return impl_->out; }

Result<bool> Tls::Handshake() {
  ERR_clear_error();
  const int done = SSL_do_handshake(impl_->ssl);
  if (done == 1) {
    // OpenSSL would go on without the key if the peer let it.
    if (impl_->web_server.empty() && SSL_session_reused(impl_->ssl) != 1) return Error(PermissionDenied("the peer does not hold this cluster's token: check both ends' --token-file"));
    return true;
  }
  if (SSL_get_error(impl_->ssl, done) == SSL_ERROR_WANT_READ) return false;
  return impl_->TakeError("the handshake");
}

Result<std::size_t> Tls::Read(std::span<std::uint8_t> to) {
  std::size_t done = 0;
  while (done < to.size()) {
    ERR_clear_error();
    std::size_t read = 0;
    if (SSL_read_ex(impl_->ssl, to.data() + done, to.size() - done, &read) != 1) break;
    done += read;
  }
  if (done != 0) return done;  // What is wrong behind it is found the next time.
  switch (SSL_get_error(impl_->ssl, 0)) {
    case SSL_ERROR_WANT_READ: return std::size_t{0};
    case SSL_ERROR_ZERO_RETURN: return Error(Unavailable("the peer ended the stream"));
    default: return impl_->TakeError("reading");
  }
}

bool Tls::HasInput() const { return impl_->begin != impl_->end || SSL_pending(impl_->ssl) > 0; }

bool Tls::ended() const { return (SSL_get_shutdown(impl_->ssl) & SSL_RECEIVED_SHUTDOWN) != 0; }

Status Tls::Write(ByteView bytes) {
  ERR_clear_error();
  if ((impl_->written += bytes.size()) > kBytesPerKey) {
    impl_->written = bytes.size();
    SSL_key_update(impl_->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
  }
  std::size_t written = 0;
  if (bytes.empty() || SSL_write_ex(impl_->ssl, bytes.data(), bytes.size(), &written) == 1) return {};
  return impl_->TakeError("writing");
}

}  // namespace godwit::transport
