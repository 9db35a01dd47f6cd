#include "base/fresh_file.h"
#include "device/processor.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

namespace godwit::device {
namespace {

namespace fs = std::filesystem;

class ProcessorTest : public ::testing::Test {
 protected:
  void Put(const fs::path& path, const std::string& text) {
    fs::create_directories((folder_ / path).parent_path());
    std::ofstream(folder_ / path) << text << '\n';
  }
  std::optional<double> Limit() { return UseOfProcessor(folder_ / "groups", folder_ / "cgroup").limit; }

  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const fs::path folder_ = temporary_.path();
};

TEST_F(ProcessorTest, OfTheGroupsOfVersion2TheLeastLimitHolds) {
  EXPECT_EQ(Limit(), std::nullopt) << "no groups";
  Put("groups", "0::/pods/one");
  EXPECT_EQ(Limit(), std::nullopt) << "groups without limits";
  Put("cgroup/pods/one/cpu.max", "max 100000");
  EXPECT_EQ(Limit(), std::nullopt);
  Put("cgroup/pods/one/cpu.max", "150000 100000");
  EXPECT_EQ(Limit(), 1.5);
  Put("cgroup/pods/cpu.max", "50000 200000");
  EXPECT_EQ(Limit(), 0.25) << "that of the group around it";
  Put("cgroup/pods/cpu.max", "nonsense");
  EXPECT_EQ(Limit(), 1.5);
}

TEST_F(ProcessorTest, TheProcessorsHierarchyOfVersion1IsTheOneThatCounts) {
  Put("groups", "4:cpuset:/x\n3:memory:/y\n2:cpu,cpuacct:/a\n0::/");
  Put("cgroup/cpuset/x/cpu.cfs_quota_us", "1");
  Put("cgroup/cpuset/x/cpu.cfs_period_us", "100000");
  EXPECT_EQ(Limit(), std::nullopt);
  Put("cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "-1");
  Put("cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000");
  EXPECT_EQ(Limit(), std::nullopt);
  Put("cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "25000");
  EXPECT_EQ(Limit(), 0.25);
}

TEST_F(ProcessorTest, InAContainerThePathOutsideIsNotThere) {
  Put("groups", "1:cpu:/docker/0123");
  Put("cgroup/cpu/cpu.cfs_quota_us", "200000");
  Put("cgroup/cpu/cpu.cfs_period_us", "100000");
  EXPECT_EQ(Limit(), 2);
}

TEST_F(ProcessorTest, WhatIsUsedGrowsWithWork) {
  const auto before = UseOfProcessor().used;
  while (UseOfProcessor().used < before + std::chrono::milliseconds(5)) {
  }
  EXPECT_GT(before.count(), 0);
}

}  // namespace
}  // namespace godwit::device
