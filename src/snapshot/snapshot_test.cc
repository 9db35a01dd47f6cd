#include "snapshot/snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <random>

#include "snapshot/layout.h"
#include "snapshot/snapshot_generated.h"

namespace godwit::snapshot {
namespace {

using testing::HasSubstr;

// A snapshot together with the bytes that its views point into.
struct Sample {
  Snapshot snapshot;
  std::deque<Bytes> kept;

  ByteView Keep(Bytes bytes) { return kept.emplace_back(std::move(bytes)); }
};

Sample SmallSample() {
  Sample s;
  s.snapshot.package_digest = "sha256:package";
  s.snapshot.ir_hash = Bytes(32, 0xab);
  s.snapshot.stacks.push_back({1, 7, {}, 4096, {1, 2, 3, 4, 5, 6, 7, 8}, Bytes(144, 0x55), true});
  s.snapshot.stacks.push_back({2, 8, Bytes(16, 9), 0, {}, {}, false});
  s.snapshot.memories.push_back({2, {{0, s.Keep(Bytes(4096, 0x11))}, {30, s.Keep(Bytes(8192, 0x22))}}});
  s.snapshot.globals.push_back({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16});
  s.snapshot.tables.push_back({{0, 1, 2}});
  s.snapshot.dropped_data = {true, false};
  s.snapshot.dropped_elements = {false};
  s.snapshot.host_states.push_back({"wasi_snapshot_preview1", {'w'}});
  s.snapshot.package.push_back({"sha256:index", s.Keep(Bytes(100, 0x33))});
  s.snapshot.package.push_back({"sha256:image", s.Keep(Bytes(70'000, 0x44))});
  return s;
}

Sample RandomSample(std::mt19937_64& random) {
  auto upto = [&](std::uint64_t max) { return random() % (max + 1); };
  auto bytes = [&](std::size_t size) {
    Bytes result(size);
    for (auto& b : result) b = static_cast<std::uint8_t>(random());
    return result;
  };
  Sample s;
  s.snapshot.package_digest = std::string(upto(80), 'd');
  s.snapshot.ir_hash = bytes(32);
  for (std::uint64_t i = upto(3); i > 0; --i) {
    s.snapshot.stacks.push_back({random(), static_cast<std::uint32_t>(random()), bytes(16 * upto(4)),
                                 static_cast<std::uint32_t>(random()), bytes(upto(300)), bytes(upto(300)), upto(1) != 0});
  }
  if (upto(3) != 0) {
    Memory memory{upto(20), {}};
    for (std::uint64_t page = upto(3); page < memory.wasm_pages * 16;) {
      const std::uint64_t pages = 1 + upto(std::min<std::uint64_t>(3, memory.wasm_pages * 16 - page - 1));
      memory.runs.push_back({page, s.Keep(bytes(pages * kPageBytes))});
      page += pages + upto(60);
    }
    s.snapshot.memories.push_back(std::move(memory));
  }
  for (std::uint64_t i = upto(5); i > 0; --i) {
    const Bytes cell = bytes(16);
    std::memcpy(s.snapshot.globals.emplace_back().data(), cell.data(), 16);
  }
  for (std::uint64_t i = upto(2); i > 0; --i) {
    s.snapshot.tables.push_back({std::vector<std::uint32_t>(upto(50), static_cast<std::uint32_t>(random()))});
  }
  for (std::uint64_t i = upto(9); i > 0; --i) s.snapshot.dropped_data.push_back(upto(1) != 0);
  for (std::uint64_t i = upto(9); i > 0; --i) s.snapshot.dropped_elements.push_back(upto(1) != 0);
  for (std::uint64_t i = upto(2); i > 0; --i) s.snapshot.host_states.push_back({"host", bytes(upto(99))});
  for (std::uint64_t i = upto(2); i > 0; --i) s.snapshot.package.push_back({"blob", s.Keep(bytes(upto(80'000)))});
  return s;
}

Bytes Copy(ByteView view) { return Bytes(view.begin(), view.end()); }

void ExpectEqual(const Snapshot& a, const Snapshot& b) {
  EXPECT_EQ(a.package_digest, b.package_digest);
  EXPECT_EQ(a.ir_hash, b.ir_hash);
  ASSERT_EQ(a.stacks.size(), b.stacks.size());
  for (std::size_t i = 0; i < a.stacks.size(); ++i) {
    EXPECT_EQ(a.stacks[i].id, b.stacks[i].id);
    EXPECT_EQ(a.stacks[i].function, b.stacks[i].function);
    EXPECT_EQ(a.stacks[i].arguments, b.stacks[i].arguments);
    EXPECT_EQ(a.stacks[i].shadow_stack_pointer, b.stacks[i].shadow_stack_pointer);
    EXPECT_EQ(a.stacks[i].frames, b.stacks[i].frames);
    EXPECT_EQ(a.stacks[i].shadow_stack, b.stacks[i].shadow_stack);
    EXPECT_EQ(a.stacks[i].preempted, b.stacks[i].preempted);
  }
  ASSERT_EQ(a.memories.size(), b.memories.size());
  for (std::size_t i = 0; i < a.memories.size(); ++i) {
    EXPECT_EQ(a.memories[i].wasm_pages, b.memories[i].wasm_pages);
    ASSERT_EQ(a.memories[i].runs.size(), b.memories[i].runs.size());
    for (std::size_t k = 0; k < a.memories[i].runs.size(); ++k) {
      EXPECT_EQ(a.memories[i].runs[k].first_page, b.memories[i].runs[k].first_page);
      EXPECT_EQ(Copy(a.memories[i].runs[k].bytes), Copy(b.memories[i].runs[k].bytes));
    }
  }
  EXPECT_EQ(a.globals, b.globals);
  ASSERT_EQ(a.tables.size(), b.tables.size());
  for (std::size_t i = 0; i < a.tables.size(); ++i) EXPECT_EQ(a.tables[i].elements, b.tables[i].elements);
  EXPECT_EQ(a.dropped_data, b.dropped_data);
  EXPECT_EQ(a.dropped_elements, b.dropped_elements);
  ASSERT_EQ(a.host_states.size(), b.host_states.size());
  for (std::size_t i = 0; i < a.host_states.size(); ++i) {
    EXPECT_EQ(a.host_states[i].module, b.host_states[i].module);
    EXPECT_EQ(a.host_states[i].bytes, b.host_states[i].bytes);
  }
  ASSERT_EQ(a.package.size(), b.package.size());
  for (std::size_t i = 0; i < a.package.size(); ++i) {
    EXPECT_EQ(a.package[i].digest, b.package[i].digest);
    EXPECT_EQ(Copy(a.package[i].bytes), Copy(b.package[i].bytes));
  }
}

Bytes MustEncode(const Snapshot& snapshot) {
  Result<Bytes> bytes = EncodeToBytes(snapshot);
  EXPECT_TRUE(bytes.ok()) << (bytes.ok() ? "" : bytes.error().message);
  return bytes.ok() ? std::move(*bytes) : Bytes();
}

// Makes the hash fit again, so that what comes after it is tested.
void Rehash(Bytes& encoded) {
  EVP_Digest(encoded.data(), encoded.size() - 32, encoded.data() + encoded.size() - 32, nullptr, EVP_sha256(), nullptr);
}

fbs::Description* MutableDescription(Bytes& encoded) {
  return flatbuffers::GetMutableRoot<fbs::Description>(encoded.data() + sizeof(Header));
}

void ExpectRefused(Bytes encoded, ErrorCode code, const char* message) {
  const auto decoded = Decode(encoded);
  ASSERT_FALSE(decoded.ok()) << message;
  EXPECT_EQ(decoded.error().code, code) << decoded.error().message;
  EXPECT_THAT(decoded.error().message, HasSubstr(message));
}

TEST(SnapshotTest, RoundTripsKeepEverything) {
  const Sample sample = SmallSample();
  const Bytes encoded = MustEncode(sample.snapshot);
  const auto decoded = Decode(encoded);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  ExpectEqual(sample.snapshot, *decoded);
  for (const CarriedBlob& blob : decoded->package) {
    EXPECT_EQ(blob.file_offset % (64 << 10), 0u);
    EXPECT_EQ(encoded.data() + blob.file_offset, blob.bytes.data());
  }
}

TEST(SnapshotTest, RoundTripsKeepAnyState) {
  const std::uint64_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937_64 random(seed);
  int with_runs = 0, with_stacks = 0, empty = 0;
  for (int i = 0; i < 200; ++i) {
    const Sample sample = RandomSample(random);
    const Bytes encoded = MustEncode(sample.snapshot);
    const auto decoded = Decode(encoded);
    ASSERT_TRUE(decoded.ok()) << decoded.error().message;
    ExpectEqual(sample.snapshot, *decoded);
    EXPECT_EQ(MustEncode(*decoded), encoded);
    with_stacks += !decoded->stacks.empty();
    with_runs += !decoded->memories.empty() && decoded->memories[0].runs.size() > 1;
    empty += decoded->package.empty();
  }
  EXPECT_GT(with_runs, 0);
  EXPECT_GT(with_stacks, 0);
  EXPECT_GT(empty, 0);
}

TEST(SnapshotTest, AnyFlippedBitIsRefused) {
  Sample sample = SmallSample();
  sample.snapshot.package.clear();
  Bytes encoded = MustEncode(sample.snapshot);
  for (std::size_t i = 0; i < encoded.size() * 8; i += i < 4096 * 8 ? 1 : 1021) {
    encoded[i / 8] ^= static_cast<std::uint8_t>(1 << (i % 8));
    ASSERT_FALSE(Decode(encoded).ok()) << "bit " << i;
    encoded[i / 8] ^= static_cast<std::uint8_t>(1 << (i % 8));
  }
  EXPECT_TRUE(Decode(encoded).ok());
}

TEST(SnapshotTest, AnyTruncationIsRefused) {
  Sample sample = SmallSample();
  sample.snapshot.package.clear();
  const Bytes encoded = MustEncode(sample.snapshot);
  for (std::size_t size = 0; size < encoded.size(); size += size < 2048 ? 1 : 97) {
    ASSERT_FALSE(Decode(ByteView(encoded).first(size)).ok()) << size;
  }
}

TEST(SnapshotTest, UnalignedBytesDecodeToo) {
  const Sample sample = SmallSample();
  Bytes shifted = MustEncode(sample.snapshot);
  shifted.insert(shifted.begin(), 0);
  const auto decoded = Decode(ByteView(shifted).subspan(1));
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  ExpectEqual(sample.snapshot, *decoded);
}

TEST(SnapshotTest, AForeignFileIsNamedAsSuch) {
  ExpectRefused(Bytes(1000, 'x'), ErrorCode::kInvalidArgument, "not a Godwit snapshot");
  ExpectRefused({}, ErrorCode::kInvalidArgument, "not a Godwit snapshot");
}

TEST(SnapshotTest, AnotherVersionIsRefused) {
  Bytes encoded = MustEncode(SmallSample().snapshot);
  encoded[8] = 1;
  ExpectRefused(encoded, ErrorCode::kUnsupported, "version 1");
}

TEST(SnapshotTest, AnAppendedByteIsRefused) {
  Bytes encoded = MustEncode(SmallSample().snapshot);
  encoded.push_back(0);
  ExpectRefused(encoded, ErrorCode::kCorrupt, "bytes instead of");
}

TEST(SnapshotTest, ADescriptionOutOfRangeIsRefused) {
  Bytes encoded = MustEncode(SmallSample().snapshot);
  const std::uint64_t size = encoded.size();
  std::memcpy(encoded.data() + 24, &size, 8);
  Rehash(encoded);
  ExpectRefused(encoded, ErrorCode::kCorrupt, "description is out of range");
}

TEST(SnapshotTest, ABrokenFlatBufferIsRefused) {
  Bytes encoded = MustEncode(SmallSample().snapshot);
  std::memset(encoded.data() + sizeof(Header), 0xff, 4);
  Rehash(encoded);
  ExpectRefused(encoded, ErrorCode::kCorrupt, "not a valid FlatBuffer");
}

TEST(SnapshotTest, PartsOutsideTheFileAreRefused) {
  for (const std::uint64_t offset : {std::uint64_t(0), std::uint64_t(1) << 40, ~std::uint64_t(63)}) {
    Bytes encoded = MustEncode(SmallSample().snapshot);
    const fbs::Range* range = MutableDescription(encoded)->stacks()->Get(0)->frames();
    *const_cast<fbs::Range*>(range) = fbs::Range(offset, 8);
    Rehash(encoded);
    ExpectRefused(encoded, ErrorCode::kCorrupt, "outside the file");
  }
}

TEST(SnapshotTest, AnUnalignedPartIsRefused) {
  Bytes encoded = MustEncode(SmallSample().snapshot);
  const fbs::Range* range = MutableDescription(encoded)->package()->Get(0)->bytes();
  *const_cast<fbs::Range*>(range) = fbs::Range(range->offset() + 4096, 10);
  Rehash(encoded);
  ExpectRefused(encoded, ErrorCode::kCorrupt, "not aligned");
}

TEST(SnapshotTest, PageRunsOutOfOrderOrPastTheMemoryAreRefused) {
  for (const fbs::PageRun run : {fbs::PageRun(31, 2, 0), fbs::PageRun(0, 2, 0), fbs::PageRun(30, 0, 0),
                                 fbs::PageRun(30, ~0ull, 0), fbs::PageRun(~0ull, 2, 0)}) {
    Bytes encoded = MustEncode(SmallSample().snapshot);
    const fbs::PageRun* second = MutableDescription(encoded)->memories()->Get(0)->runs()->Get(1);
    *const_cast<fbs::PageRun*>(second) = fbs::PageRun(run.first_page(), run.pages(), second->offset());
    Rehash(encoded);
    ExpectRefused(encoded, ErrorCode::kCorrupt, "page runs");
  }
}

TEST(SnapshotTest, AFlagThatIsNoFlagIsRefused) {
  Bytes encoded = MustEncode(SmallSample().snapshot);
  const_cast<std::uint8_t*>(MutableDescription(encoded)->dropped_data()->Data())[0] = 2;
  Rehash(encoded);
  ExpectRefused(encoded, ErrorCode::kCorrupt, "neither 0 nor 1");
}

TEST(SnapshotTest, LimitsHoldWhenEncoding) {
  Sample sample = SmallSample();
  sample.snapshot.stacks.assign(kStacksMax, Stack{});
  EXPECT_TRUE(Decode(MustEncode(sample.snapshot)).ok());
  sample.snapshot.stacks.emplace_back();
  EXPECT_EQ(EncodeToBytes(sample.snapshot).error().code, ErrorCode::kResourceExhausted);

  sample = SmallSample();
  sample.snapshot.memories[0].wasm_pages = kWasmPagesMax;
  EXPECT_TRUE(Decode(MustEncode(sample.snapshot)).ok());
  sample.snapshot.memories[0].wasm_pages = kWasmPagesMax + 1;
  EXPECT_EQ(EncodeToBytes(sample.snapshot).error().code, ErrorCode::kResourceExhausted);

  sample = SmallSample();
  sample.snapshot.memories.push_back({});
  EXPECT_EQ(EncodeToBytes(sample.snapshot).error().code, ErrorCode::kResourceExhausted);

  sample = SmallSample();
  sample.snapshot.host_states.assign(kHostStatesMax, HostState{"h", {}});
  EXPECT_TRUE(Decode(MustEncode(sample.snapshot)).ok());
  sample.snapshot.host_states.push_back({"h", {}});
  EXPECT_EQ(EncodeToBytes(sample.snapshot).error().code, ErrorCode::kResourceExhausted);

  sample = SmallSample();
  sample.snapshot.memories[0].wasm_pages = 1;  // Its second run lies past that.
  EXPECT_EQ(EncodeToBytes(sample.snapshot).error().code, ErrorCode::kInvalidArgument);
}

TEST(SnapshotTest, ASinksErrorEndsTheEncoding) {
  int calls = 0;
  const Status status = Encode(SmallSample().snapshot, [&](ByteView) -> Status {
    if (++calls == 3) return ResourceExhausted("disk full");
    return {};
  });
  EXPECT_EQ(status.error().message, "disk full");
  EXPECT_EQ(calls, 3);
}

// The golden file holds SmallSample() as format version 2 wrote it; docs/formats/snapshot.md walks through it.
TEST(SnapshotTest, TheGoldenFileOfVersion2IsStillRead) {
  const char* source = std::getenv("GODWIT_SOURCE_DIR");
  if (!source) GTEST_SKIP() << "GODWIT_SOURCE_DIR is not set";
  std::ifstream in(std::string(source) + "/src/snapshot/testdata/v2.snapshot", std::ios::binary);
  ASSERT_TRUE(in.good());
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const Bytes golden(text.begin(), text.end());
  const auto decoded = Decode(golden);
  ASSERT_TRUE(decoded.ok()) << decoded.error().message;
  Sample sample = SmallSample();
  sample.snapshot.package.clear();
  ExpectEqual(sample.snapshot, *decoded);
  EXPECT_EQ(MustEncode(sample.snapshot), golden);
}

}  // namespace
}  // namespace godwit::snapshot
