#include "package/package.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "base/fresh_file.h"
#include "package/module_check.h"
#include "package/native_abi.h"
#include "package/oci.h"
#include "package/package_fixture.h"

namespace godwit::package {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class PackageTest : public testing::Test {
 protected:
  fs::path path(const std::string& name = "p.gwp") const { return folder_ / name; }
  std::string MustWrite(const fs::path& to, const Contents& contents = SampleContents()) {
    const Result<std::string> digest = WritePackage(to, contents);
    EXPECT_TRUE(digest.ok()) << (digest.ok() ? "" : digest.error().message);
    return digest.ok() ? *digest : "";
  }
  std::shared_ptr<const Package> MustOpen(const fs::path& from) {
    Result<std::shared_ptr<const Package>> package = Package::Open(from);
    EXPECT_TRUE(package.ok()) << (package.ok() ? "" : package.error().message);
    return package.ok() ? *package : nullptr;
  }
  static std::map<std::string, std::string> Files(const fs::path& root) {
    std::map<std::string, std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path(), std::ios::binary);
      files[fs::relative(entry.path(), root)] = std::string(std::istreambuf_iterator<char>(in), {});
    }
    return files;
  }
  fs::path BlobPath(const std::string& digest) const { return path() / "blobs" / "sha256" / digest.substr(7); }
  static void Spoil(const fs::path& file) {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    char c = 0;
    f.read(&c, 1);
    c = static_cast<char>(c ^ 1);
    f.seekp(0);
    f.write(&c, 1);
  }

  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const fs::path folder_ = temporary_.path();
};

TEST_F(PackageTest, WhatWasWrittenIsRead) {
  const std::string digest = MustWrite(path());
  const auto package = MustOpen(path());
  EXPECT_EQ(package->digest(), digest);
  EXPECT_EQ(package->module().name()->str(), "sample");
  EXPECT_EQ(Bytes(package->wasm().begin(), package->wasm().end()), SampleContents().wasm);
  EXPECT_THAT(package->isas(), ElementsAre(Isa::kX86_64, Isa::kAarch64));
  const Result<Blob> image = package->image(Isa::kAarch64);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(Bytes(image->bytes.begin(), image->bytes.end()), Bytes(6000, 0xa6));
  EXPECT_GE(image->fd, 0);
  EXPECT_EQ(image->offset, 0u);
  EXPECT_TRUE(package->CheckBlobs().ok());
  EXPECT_EQ(package->blobs().front().digest, digest);
}

TEST_F(PackageTest, SameContentsGiveTheSameBytes) {
  EXPECT_EQ(MustWrite(path("a")), MustWrite(path("b")));
  EXPECT_EQ(Files(path("a")), Files(path("b")));
}

TEST_F(PackageTest, WritingReplacesAnOlderPackageAndLeavesNothingElse) {
  const std::string before = MustWrite(path());
  Contents changed = SampleContents();
  changed.images[Isa::kX86_64].push_back(1);
  EXPECT_NE(MustWrite(path(), changed), before);
  EXPECT_EQ(MustOpen(path())->image(Isa::kX86_64)->bytes.size(), 5001u);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(PackageTest, WritingOverSomethingElseIsRefused) {
  fs::create_directory(path());
  std::ofstream(path() / "precious.txt") << "keep";
  const auto result = WritePackage(path(), SampleContents());
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_TRUE(fs::exists(path() / "precious.txt"));
}

TEST_F(PackageTest, AFailedWriteLeavesTheOldPackage) {
  const std::string before = MustWrite(path());
  Contents big = SampleContents();
  big.images[Isa::kX86_64] = Bytes(1 << 20, 1);
  struct rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  const struct rlimit small{100'000, old.rlim_max};  // Stands for a full disk: write() fails in the middle.
  std::signal(SIGXFSZ, SIG_IGN);
  setrlimit(RLIMIT_FSIZE, &small);
  const auto result = WritePackage(path(), big);
  setrlimit(RLIMIT_FSIZE, &old);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("cannot write"));
  EXPECT_EQ(MustOpen(path())->digest(), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(PackageTest, ADescriptionOfOtherWasmIsRefused) {
  Contents contents = SampleContents();
  contents.wasm.push_back(0);
  EXPECT_EQ(WritePackage(path(), contents).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(PackageTest, OpeningNothingSaysNotFound) {
  EXPECT_EQ(Package::Open(path("none")).error().code, ErrorCode::kNotFound);
}

TEST_F(PackageTest, OpeningAnotherFolderSaysWhatIsMissing) {
  const auto result = Package::Open(folder_);
  EXPECT_EQ(result.error().code, ErrorCode::kCorrupt);
  EXPECT_THAT(result.error().message, HasSubstr("oci-layout"));
}

TEST_F(PackageTest, EveryDamagedBlobIsFoundAndNamed) {
  MustWrite(path());
  const auto whole = MustOpen(path());
  for (const auto& blob : whole->blobs()) {
    Spoil(BlobPath(blob.digest));
    const auto package = Package::Open(path());
    const Status status = package.ok() ? (*package)->CheckBlobs() : Status(package.error());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kCorrupt);
    EXPECT_THAT(status.error().message, HasSubstr(blob.digest));
    Spoil(BlobPath(blob.digest));
  }
}

TEST_F(PackageTest, ADamagedImageIsRefusedWhenItIsAskedFor) {
  MustWrite(path());
  Spoil(BlobPath(MustOpen(path())->image(Isa::kX86_64)->digest));
  const auto package = MustOpen(path());
  EXPECT_EQ(package->image(Isa::kX86_64).error().code, ErrorCode::kCorrupt);
  EXPECT_TRUE(package->image(Isa::kAarch64).ok());
}

TEST_F(PackageTest, TruncatedAndMissingBlobsAreRefused) {
  MustWrite(path());
  const std::string image = MustOpen(path())->image(Isa::kX86_64)->digest;
  fs::resize_file(BlobPath(image), 100);
  EXPECT_THAT(Package::Open(path()).error().message, HasSubstr("100 bytes instead of 5000"));
  fs::remove(BlobPath(image));
  EXPECT_THAT(Package::Open(path()).error().message, HasSubstr(image + " is missing"));
}

TEST_F(PackageTest, ADigestThatLeadsOutOfTheFolderIsRefused) {
  const std::string digest = MustWrite(path());
  auto json = Files(path()).at("index.json");
  json.replace(json.find(digest), digest.size(), "sha256:../../../../etc/passwd");
  std::ofstream(path() / "index.json") << json;
  EXPECT_THAT(Package::Open(path()).error().message, HasSubstr("digest"));
}

TEST_F(PackageTest, AnImageThatIsNotThereNamesWhatThereIs) {
  MustWrite(path());
  const auto image = MustOpen(path())->image(Isa::kRiscv64);
  EXPECT_EQ(image.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(image.error().message, HasSubstr("x86_64, aarch64"));
}

TEST_F(PackageTest, TheBlobsOfOneIsaMakeAPackageForIt) {
  const std::string digest = MustWrite(path());
  const auto whole = MustOpen(path());
  std::map<std::string, Blob> some;
  for (const std::string& needed : whole->BlobsFor(Isa::kAarch64)) {
    for (const Blob& blob : whole->blobs()) {
      if (blob.digest == needed) some[needed] = blob;
    }
  }
  EXPECT_EQ(some.size(), 5u);
  const auto package = Package::FromBlobs(digest, some);
  ASSERT_TRUE(package.ok()) << package.error().message;
  EXPECT_THAT((*package)->isas(), ElementsAre(Isa::kAarch64));
  EXPECT_TRUE((*package)->image(Isa::kAarch64).ok());
  EXPECT_TRUE((*package)->wasm().empty());
}

TEST_F(PackageTest, FromBlobsRefusesWhatIsIncomplete) {
  const std::string digest = MustWrite(path());
  const auto whole = MustOpen(path());
  std::map<std::string, Blob> blobs;
  EXPECT_EQ(Package::FromBlobs(digest, blobs).error().code, ErrorCode::kNotFound);
  blobs[digest] = whole->blobs().front();
  EXPECT_EQ(Package::FromBlobs(digest, blobs).error().code, ErrorCode::kCorrupt);
  for (const Blob& blob : whole->blobs()) blobs[blob.digest] = blob;
  blobs.erase(whole->image(Isa::kX86_64)->digest);
  EXPECT_EQ(Package::FromBlobs(digest, blobs).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(Package::FromBlobs("sha256:xyz", blobs).error().code, ErrorCode::kInvalidArgument);
}

TEST(ModuleCheckTest, AcceptsAConsistentDescription) {
  const Bytes bytes = Description().Build();
  const auto module = CheckModule(bytes);
  EXPECT_TRUE(module.ok()) << (module.ok() ? "" : module.error().message);
}

TEST(ModuleCheckTest, RefusesAnotherAbiVersion) {
  Description d;
  d.abi_version = abi::kAbiVersion + 1;
  EXPECT_EQ(CheckModule(d.Build()).error().code, ErrorCode::kUnsupported);
}

TEST(ModuleCheckTest, RefusesEveryInconsistencyByName) {
  struct Case {
    std::function<void(Description&)> spoil;
    const char* message;
  };
  const Case cases[] = {
      {[](Description& d) { d.hash_bytes = 31; }, "ir_hash"},
      {[](Description& d) { d.with_elements = false; }, "a list is missing"},
      {[](Description& d) { d.params = {7}; }, "unknown value type"},
      {[](Description& d) { d.import_type = 2; }, "an import's type"},
      {[](Description& d) { d.imported_functions = 0; }, "imported_functions"},
      {[](Description& d) { d.function_type = 2; }, "a function's type"},
      {[](Description& d) { d.safepoint_begins = {}; }, "closing entry"},
      {[](Description& d) { d.safepoint_begins = {0, 2, 1}; }, "out of order"},
      {[](Description& d) { d.safepoint_begins = {1, 1, 2}; }, "out of order"},
      {[](Description& d) { d.safepoint_begins = {0, 0, 3}; }, "out of order"},
      {[](Description& d) { d.safepoint_begins = {0, 0, 1}; }, "belong to no function"},
      {[](Description& d) { d.names = {"one"}; }, "function_names"},
      {[](Description& d) { d.payload = kSafepointPayloadMax + 1; }, "frame larger"},
      {[](Description& d) { d.pointers_end = 2; }, "pointers are out of range"},
      {[](Description& d) { d.pointer = 9; }, "pointer outside its frame"},
      {[](Description& d) { d.memory_maximum = 0; }, "limits"},
      {[](Description& d) { d.memory_maximum = 65537; }, "limits"},
      {[](Description& d) { d.memories = 2; }, "more than one memory"},
      {[](Description& d) { d.export_index = 2; }, "export '_start'"},
      {[](Description& d) { d.start = 2; }, "start function"},
      {[](Description& d) { d.data_memory = 1; }, "data segment's memory"},
      {[](Description& d) { d.element_table = 1; }, "element segment's table"},
      {[](Description& d) { d.element_function = 2; }, "initialiser's function"},
      {[](Description& d) { d.global_init = 1; }, "initialiser's global"},
      {[](Description& d) { d.tag_type = 2; }, "tag's type"},
      {[](Description& d) { d.params = std::vector<std::uint8_t>(kTagParametersMax + 1); }, "tag with too many parameters"},
      {[](Description& d) { d.expression_steps = 4; }, "expression is out of range"},
      {[](Description& d) { d.expression_steps = 2; }, "does not leave one value"},
      {[](Description& d) { d.expression_steps = 3; std::swap(d.expressions[1], d.expressions[2]); }, "lacks operands"},
      {[](Description& d) { d.expression_steps = 3; d.expressions[2] = {static_cast<fbs::InitKind>(11), 0, 0, 0}; }, "step is unknown"},
      {[](Description& d) { d.expression_steps = 3; d.expressions[0] = {fbs::InitKind::expression, 1, 1, 0}; }, "inside an expression"},
      {[](Description& d) { d.expression_steps = kExpressionStepsMax + 1; d.expressions.resize(kExpressionStepsMax + 1); }, "expression is out of range"},
  };
  for (const Case& c : cases) {
    Description d;
    c.spoil(d);
    const Bytes bytes = d.Build();
    const auto module = CheckModule(bytes);
    ASSERT_FALSE(module.ok()) << c.message;
    EXPECT_EQ(module.error().code, ErrorCode::kCorrupt) << c.message;
    EXPECT_THAT(module.error().message, HasSubstr(c.message));
  }
}

TEST(ModuleCheckTest, InitialisersMayBeExpressions) {
  Description d;
  d.expression_steps = 3;
  d.params = std::vector<std::uint8_t>(kTagParametersMax);
  const Bytes bytes = d.Build();
  EXPECT_TRUE(CheckModule(bytes).ok());
}

TEST(ModuleCheckTest, TruncatedBytesNeverPassUnchecked) {
  const Bytes whole = Description().Build();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    (void)CheckModule(ByteView(whole).first(size));  // May not crash; the verifier decides.
  }
  EXPECT_FALSE(CheckModule(ByteView(whole).first(whole.size() / 2)).ok());
}

TEST(OciTest, RefusesWhatIsNotSuchADocument) {
  EXPECT_FALSE(ParseIndex(AsBytes("[]"), "x").ok());
  EXPECT_FALSE(ParseIndex(AsBytes("{}"), "x").ok());
  EXPECT_FALSE(ParseIndex(AsBytes(R"({"manifests":[1]})"), "x").ok());
  EXPECT_FALSE(ParseManifest(AsBytes(R"({"layers":[]})"), "x").ok());
  const std::string digest = Sha256Digest(AsBytes("a"));
  auto entry = [&](const std::string& size) {
    return R"({"manifests":[{"mediaType":"m","digest":")" + digest + R"(","size":)" + size + "}]}";
  };
  EXPECT_TRUE(ParseIndex(AsBytes(entry("2147483648")), "x").ok());
  EXPECT_FALSE(ParseIndex(AsBytes(entry("2147483649")), "x").ok());
  EXPECT_FALSE(ParseIndex(AsBytes(entry("-1")), "x").ok());
  EXPECT_FALSE(ParseIndex(AsBytes(entry("\"1\"")), "x").ok());
  EXPECT_FALSE(ParseIndex(Bytes(kDocumentBytesMax + 1, ' '), "x").ok());
  const Descriptor d{"m", digest, 1, ""};
  EXPECT_TRUE(ParseIndex(AsBytes(IndexJson({std::vector<Descriptor>(kManifestsMax, d), {}, {}, {}})), "x").ok());
  EXPECT_FALSE(ParseIndex(AsBytes(IndexJson({std::vector<Descriptor>(kManifestsMax + 1, d), {}, {}, {}})), "x").ok());
}

TEST(OciTest, DigestsAreSpelledAsOciSays) {
  // FIPS 180-4's example "abc".
  EXPECT_EQ(Sha256Digest(AsBytes("abc")), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_FALSE(IsDigest("sha256:BA7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"));
}

TEST(IsaTest, BothSpellingsAreUnderstood) {
  for (const Isa isa : {Isa::kX86_64, Isa::kAarch64, Isa::kRiscv64}) {
    EXPECT_EQ(ParseIsa(IsaName(isa)), isa);
    EXPECT_EQ(ParseIsa(OciArchitecture(isa)), isa);
  }
  EXPECT_EQ(ParseIsa("sparc"), std::nullopt);
}

}  // namespace
}  // namespace godwit::package
