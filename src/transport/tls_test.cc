#include "transport/tls.h"

#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>

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

// A web server with a certificate for "localhost" that is its own authority.
class WebServer {
 public:
  WebServer() : key_(EVP_EC_gen("P-256")), certificate_(X509_new()), context_(SSL_CTX_new(TLS_server_method())) {
    X509_set_version(certificate_, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate_), 1);
    X509_gmtime_adj(X509_getm_notBefore(certificate_), -3600);
    X509_gmtime_adj(X509_getm_notAfter(certificate_), 3600);
    X509_set_pubkey(certificate_, key_);
    X509_NAME* const name = X509_get_subject_name(certificate_);
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("server"), -1, -1, 0);
    X509_set_issuer_name(certificate_, name);
    X509_EXTENSION* const names = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost");
    X509_add_ext(certificate_, names, -1);
    X509_EXTENSION_free(names);
    X509_sign(certificate_, key_, EVP_sha256());
    SSL_CTX_use_certificate(context_, certificate_);
    SSL_CTX_use_PrivateKey(context_, key_);
    ssl_ = SSL_new(context_);
    SSL_set_bio(ssl_, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
    SSL_set_accept_state(ssl_);
  }
  ~WebServer() {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  SSL* ssl() { return ssl_; }
  // For the next client.
  void Reset() {
    SSL_clear(ssl_);
    BIO_reset(SSL_get_rbio(ssl_));
    BIO_reset(SSL_get_wbio(ssl_));
  }
  void WriteCertificate(const std::string& path) const {
    std::FILE* const file = std::fopen(path.c_str(), "w");
    ASSERT_NE(file, nullptr);
    EXPECT_EQ(PEM_write_X509(file, certificate_), 1);
    std::fclose(file);
  }
  // What each has for the other.
  void Exchange(Tls& near) {
    if (!near.outgoing().empty()) BIO_write(SSL_get_rbio(ssl_), near.outgoing().data(), static_cast<int>(near.outgoing().size()));
    near.outgoing().clear();
    if (SSL_in_init(ssl_)) SSL_do_handshake(ssl_);
    Bytes bytes(1 << 16);
    const int n = BIO_read(SSL_get_wbio(ssl_), bytes.data(), static_cast<int>(bytes.size()));
    bytes.resize(static_cast<std::size_t>(std::max(n, 0)));
    if (n > 0) Give(bytes, near);
  }
  Result<bool> Handshake(Tls& near) {
    for (int i = 0; i < 8; ++i) {
      const auto done = near.Handshake();
      Exchange(near);
      if (!done.ok() || *done) return done;
    }
    return false;
  }

 private:
  EVP_PKEY* const key_;
  X509* const certificate_;
  SSL_CTX* const context_;
  SSL* ssl_ = nullptr;
};

class WebServerTest : public ::testing::Test {
 protected:
  // Authorities are read once in a process.
  static void SetUpTestSuite() {
    if (trusted_ != nullptr) return;
    const std::string file = ::testing::TempDir() + "/godwit-authorities.pem";
    trusted_ = new WebServer;
    trusted_->WriteCertificate(file);
    setenv("SSL_CERT_FILE", file.c_str(), 1);
    static_cast<void>(Tls::ToWebServer("localhost"));
    unsetenv("SSL_CERT_FILE");
    std::remove(file.c_str());
  }
  void SetUp() override { trusted_->Reset(); }
  static inline WebServer* trusted_ = nullptr;
};

TEST_F(WebServerTest, IsBelievedWithACertificateForItsNameAndUntilItEndsTheStream) {
  const auto near = Tls::ToWebServer("localhost");
  const auto shaken = trusted_->Handshake(*near);
  ASSERT_TRUE(shaken.ok() && *shaken) << shaken.error().message;
  ASSERT_EQ(SSL_write(trusted_->ssl(), "hello", 5), 5);
  trusted_->Exchange(*near);
  EXPECT_EQ(AsText(ReadAll(*near).value()), "hello");
  EXPECT_FALSE(near->ended());
  SSL_shutdown(trusted_->ssl());
  trusted_->Exchange(*near);
  Bytes none(1);
  EXPECT_EQ(near->Read(none).error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(near->ended());
}

TEST_F(WebServerTest, IsNotBelievedUnderAnotherName) {
  for (const char* name : {"example.org", "host.localhost", "127.0.0.1", "::1"}) {
    trusted_->Reset();
    const auto near = Tls::ToWebServer(name);
    const auto shaken = trusted_->Handshake(*near);
    ASSERT_FALSE(shaken.ok()) << name;
    EXPECT_EQ(shaken.error().code, ErrorCode::kPermissionDenied) << shaken.error().message;
    EXPECT_NE(shaken.error().message.find("mismatch"), std::string::npos) << shaken.error().message;
  }
}

TEST_F(WebServerTest, IsNotBelievedByAnotherAuthority) {
  WebServer stranger;
  const auto near = Tls::ToWebServer("localhost");
  const auto shaken = stranger.Handshake(*near);
  ASSERT_FALSE(shaken.ok());
  EXPECT_EQ(shaken.error().code, ErrorCode::kPermissionDenied) << shaken.error().message;
}

}  // namespace
}  // namespace godwit::transport
