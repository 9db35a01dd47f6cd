#include "device/profile.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace godwit::device {
namespace {

TEST(ProfileTest, EachProfileThatComesWithThisIsValid) {
  const char* source = std::getenv("GODWIT_SOURCE_DIR");
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(source != nullptr ? source : ".") / "profiles")) {
    std::ifstream file(entry.path());
    std::stringstream text;
    text << file.rdbuf();
    const auto profile = ParseProfile(text.str());
    ASSERT_TRUE(profile.ok()) << entry.path() << ": " << profile.error().message;
    EXPECT_EQ(profile->name + ".toml", entry.path().filename());
    ++count;
  }
  EXPECT_GE(count, 5);
}

TEST(ProfileTest, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"class = \"csd\"", "name is missing"},
      {"name = \"x\"", "class must be"},
      {"name = \"x\"\nclass = \"csd\"\ncolour = 1", "colour is no key"},
      {"name = \"x\"\nclass = \"csd\"\ncores = 0", "cores must be a number from 1"},
      {"name = \"x\"\nclass = \"csd\"\nspeed = \"fast\"", "speed must be a number"},
      {"name = \"x\"\nclass = \"csd\"\nmemory = 5", "memory must be a size"},
      {"name = \nclass", "line 1"},
  };
  for (const auto& [text, message] : cases) {
    const auto profile = ParseProfile(text);
    ASSERT_FALSE(profile.ok()) << text;
    EXPECT_NE(profile.error().message.find(message), std::string::npos) << profile.error().message;
  }
}

TEST(ProfileTest, EnergyIsPowerTimesTime) {
  Profile profile;
  profile.core_watts = 2.5;
  EXPECT_EQ(EnergyUj(profile, 1'000'000), 2'500'000u);
}

}  // namespace
}  // namespace godwit::device
