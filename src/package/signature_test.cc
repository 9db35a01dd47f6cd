#include "package/signature.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>

#include <fstream>

#include "base/fresh_file.h"
#include "package/oci.h"
#include "package/package_fixture.h"

namespace godwit::package {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SignatureTest : public testing::Test {
 protected:
  SignatureTest() {
    package = folder / "p.gwp";
    MakeKey("a");
    MakeKey("b");
    EXPECT_TRUE(WritePackage(package, SampleContents()).ok());
  }

  // NAME.pem and NAME.pub.pem
  void MakeKey(const std::string& name, int type = EVP_PKEY_ED25519) {
    EVP_PKEY_CTX* context = EVP_PKEY_CTX_new_id(type, nullptr);
    EVP_PKEY* key = nullptr;
    EVP_PKEY_keygen_init(context);
    EVP_PKEY_keygen(context, &key);
    EVP_PKEY_CTX_free(context);
    FILE* file = fopen((folder / (name + ".pem")).c_str(), "w");
    PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr);
    fclose(file);
    file = fopen((folder / (name + ".pub.pem")).c_str(), "w");
    PEM_write_PUBKEY(file, key);
    fclose(file);
    EVP_PKEY_free(key);
  }
  std::string Sign(const std::string& key) {
    const auto digest = SignPackage(package, *LoadSigningKey(folder / (key + ".pem")));
    EXPECT_TRUE(digest.ok()) << digest.error().message;
    return digest.ok() ? *digest : "";
  }
  Status Check(const std::string& keys) {
    const auto trusted = TrustedKeys::Load(folder / keys);
    EXPECT_TRUE(trusted.ok()) << trusted.error().message;
    const auto opened = Package::Open(package);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return trusted->Check(**opened);
  }
  std::string Read(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // Puts another image index into the package.
  void Replace(const Index& index) {
    const std::string json = IndexJson(index);
    const Descriptor descriptor{std::string(kIndexType), Sha256Digest(AsBytes(json)), json.size(), {}};
    std::ofstream(package / "blobs" / "sha256" / descriptor.digest.substr(7)) << json;
    std::ofstream(package / "index.json") << IndexJson({{descriptor}, {}, {}, {}});
  }
  Index ReadIndex() {
    const auto opened = Package::Open(package);
    return *ParseIndex((*opened)->blobs().front().bytes, "index");
  }
  const TemporaryFolder temporary = TemporaryFolder::Create().value();
  const fs::path folder = temporary.path();
  fs::path package;
};

TEST_F(SignatureTest, WhatWasSignedIsTrustedByItsKeyOnly) {
  EXPECT_EQ(Check("a.pub.pem").error().code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(Check("a.pub.pem").error().message, HasSubstr("is not signed"));
  const std::string digest = Sign("a");
  EXPECT_EQ((*Package::Open(package))->digest(), digest);
  EXPECT_TRUE((*Package::Open(package))->CheckBlobs().ok());
  EXPECT_TRUE(Check("a.pub.pem").ok());
  EXPECT_THAT(Check("b.pub.pem").error().message, HasSubstr("not trusted here"));
  std::ofstream(folder / "both.pem") << Read(folder / "b.pub.pem") << "and\n" << Read(folder / "a.pub.pem");
  EXPECT_TRUE(Check("both.pem").ok());
}

TEST_F(SignatureTest, SigningIsRepeatableAndReplacesAnEarlierSignature) {
  const std::string first = Sign("a");
  EXPECT_EQ(Sign("a"), first);
  const std::string other = Sign("b");
  EXPECT_NE(other, first);
  EXPECT_TRUE(Check("b.pub.pem").ok());
  EXPECT_FALSE(Check("a.pub.pem").ok());
  EXPECT_EQ(Sign("a"), first);
  std::size_t blobs = 0;
  for (const auto& blob : fs::directory_iterator(package / "blobs" / "sha256")) blobs += blob.is_regular_file();
  EXPECT_EQ(blobs, (*Package::Open(package))->blobs().size());
}

TEST_F(SignatureTest, AnotherContentOrASpoiledSignatureDoesNotFit) {
  Sign("a");
  const Index good = ReadIndex();
  Index bad = good;
  bad.title += "!";
  Replace(bad);
  EXPECT_THAT(Check("a.pub.pem").error().message, HasSubstr("does not fit"));
  bad = good;
  bad.manifests.pop_back();
  Replace(bad);
  EXPECT_THAT(Check("a.pub.pem").error().message, HasSubstr("does not fit"));
  for (const std::string signature : {"", "AAAA", "no base64 at all"}) {
    bad = good;
    bad.signature = signature;
    Replace(bad);
    EXPECT_EQ(Check("a.pub.pem").error().code, ErrorCode::kPermissionDenied) << signature;
  }
  for (const std::size_t at : {0, 40, 80}) {
    bad = good;
    bad.signature[at] = bad.signature[at] == 'A' ? 'B' : 'A';
    Replace(bad);
    EXPECT_THAT(Check("a.pub.pem").error().message, HasSubstr("does not fit")) << at;
  }
  Replace(good);
  EXPECT_TRUE(Check("a.pub.pem").ok());
}

TEST_F(SignatureTest, FilesThatHoldNoSuchKeyAreRefused) {
  MakeKey("x25519", EVP_PKEY_X25519);
  std::ofstream(folder / "empty.pem");
  std::ofstream(folder / "text.pem") << "hello\n";
  for (const char* name : {"empty.pem", "text.pem", "x25519.pub.pem", "a.pem"}) {
    EXPECT_EQ(TrustedKeys::Load(folder / name).error().code, ErrorCode::kInvalidArgument) << name;
  }
  for (const char* name : {"empty.pem", "text.pem", "x25519.pem", "a.pub.pem"}) {
    EXPECT_EQ(LoadSigningKey(folder / name).error().code, ErrorCode::kInvalidArgument) << name;
  }
  EXPECT_EQ(TrustedKeys::Load(folder / "none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(LoadSigningKey(folder / "none").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(SignPackage(folder / "none", *LoadSigningKey(folder / "a.pem")).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace godwit::package
