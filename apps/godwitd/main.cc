// godwitd: the daemon. Wiring only.
#include <malloc.h>

#include <cstdio>

#include <spdlog/spdlog.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include "commands.h"

int main(int argc, char** argv) {
  CLI::App app{"Godwit's daemon: a controller, or a device's agent (which is also a gateway)"};
  app.set_version_flag("--version", std::string("godwitd ") + GODWIT_VERSION);
  app.require_subcommand(1);
  spdlog::set_default_logger(spdlog::stderr_color_mt("godwitd"));
  spdlog::set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
  // Messages of 256 KiB come and go all the time: given back to the kernel each time, their pages cost twice what all copying does.
  mallopt(M_MMAP_THRESHOLD, 8 << 20);
  mallopt(M_TRIM_THRESHOLD, 16 << 20);
  int exit_code = 0;
  godwit::daemon::AddControllerCommand(app, exit_code);
  godwit::daemon::AddAgentCommand(app, exit_code);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return exit_code;
}
