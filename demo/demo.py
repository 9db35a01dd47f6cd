#!/usr/bin/env python3
"""The demo: services on four devices, moved while they work.

M1  store   a stateful key-value store with 64 MiB of live state, under an open-loop load; host0 -> csd1 -> cpm0 -> host0
M2  scan    reads a data set of more than 200 MB that lives on csd0; moved to it in the middle of a scan
M3  crunch  one request that only computes; moved at least three times, across instruction sets, before it answers
M4  scan    the same scan again, from host0: this time only the function that looks at the lines goes to csd0

Ends with a table of every move, and exit code 1 if a request failed, a value was wrong or an answer differed.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.request

import corpus

ROOT = pathlib.Path(__file__).resolve().parent.parent
GODWIT = os.environ.get("GODWIT", str(ROOT / "build/bin/godwit"))
WORK = ROOT / "build/demo"
CORPUS = WORK / "lines.txt"
DATASET = "archive"            # What services/scan.toml is granted.
WORD = "Depends"
DEVICES = ("host0", "csd0", "csd1", "cpm0")
STATE_BYTES = 64 << 20
COMMAND_SECONDS = 600
CALIBRATION_ROUNDS = 1000


class Failed(Exception):
    """The scene cannot go on; the text says why."""


class Stage:
    """The cluster, and what happened on it."""

    def __init__(self, options):
        self.options, self.started, self.moves, self.problems = options, time.monotonic(), [], []
        self.folder = WORK / f"run-{os.getpid()}"
        # A context of its own: a cluster that the user runs is left alone.
        self.environment = os.environ | {"XDG_CONFIG_HOME": str(self.folder / "config")}
        self.state = self.folder / "cluster"

    def say(self, text):
        seconds = time.monotonic() - self.started
        print(f"[{int(seconds // 60)}:{seconds % 60:04.1f}] {text}", flush=True)

    def godwit(self, *arguments, check=True):
        result = subprocess.run([GODWIT, *arguments], env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        if check and result.returncode:
            raise Failed(f"'godwit {' '.join(arguments)}' ended with code {result.returncode}: {result.stderr.strip()[-600:]}")
        return result

    def items(self, kind, *name):
        return json.loads(self.godwit("get", kind, *name, "-o", "json").stdout)["items"]

    def up(self):
        self.folder.mkdir(parents=True)
        self.godwit("up", "--detach", "--state", str(self.state))
        self.record = json.loads((self.state / "cluster.json").read_text())
        self.devices = {device["name"]: device for device in self.items("devices")}
        missing = [name for name in DEVICES if name not in self.devices]
        if missing:
            raise Failed(f"the cluster has no {', '.join(missing)}")
        for name in DEVICES:
            device = self.devices[name]
            emulated = "; ".join(device.get("emulated", [])) or "nothing"
            self.say(f"  {name:6} {device['class']:5} {device['isa']:8} emulated: {emulated}")

    def down(self, keep_logs):
        if keep_logs and self.state.exists():
            for log in sorted(self.state.glob("*.log")):
                tail = log.read_text(errors="replace").splitlines()[-15:]
                print(f"--- {log.name}\n" + "\n".join(tail), file=sys.stderr)
        self.godwit("down", "--state", str(self.state), check=False)
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)

    def deploy(self, name):
        self.godwit("apply", "-f", str(ROOT / "services" / f"{name}.toml"))
        item = self.items("services", name)[0]
        self.say(f"  {name} runs on {self.where(name)}, reached at {item['url']}")
        return item["url"]

    def where(self, service):
        return next(i["device"] for i in self.items("instances") if i["service"] == service)

    def migrate(self, label, service, target):
        source, begin = self.where(service), time.monotonic()
        result = self.godwit("migrate", service, "--to", target, "-o", "json", check=False)
        seconds = time.monotonic() - begin
        try:
            move = json.loads(result.stdout)
        except ValueError:
            move = {"error": result.stderr.strip()[-300:] or "no answer"}
        move |= {"label": label, "from": source, "to": target, "seconds": seconds, "ok": result.returncode == 0}
        self.moves.append(move)
        if not move["ok"]:
            self.problems.append(f"{label}: {source} -> {target} failed: {move.get('error') or result.stderr.strip()[-300:]}")
        self.say(f"  {label}: {source} ({self.devices[source]['isa']}) -> {target} ({self.devices[target]['isa']}): " +
                 (f"downtime {move['downtime_us'] / 1000:.1f} ms, {move['bytes_sent'] / 1e6:.2f} MB in {move['total_us'] / 1000:.0f} ms, "
                  f"{move.get('requests_held', 0)} requests held" if move["ok"] else f"FAILED: {move.get('error')}"))
        return move

    def link_bytes(self, device):
        """Bytes that crossed a device's link in either direction, as its network interface counted them; None without a link of its own."""
        for link in self.record["links"]:
            if link["device"] == device:
                folder = pathlib.Path("/sys/class/net", link["interface"], "statistics")
                return sum(int((folder / f"{way}_bytes").read_text()) for way in ("rx", "tx"))
        return None

    def ask(self, url, seconds=600, data=None, method=None):
        request = urllib.request.Request(url, data=data, method=method)
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.read()


class Asked:
    """A request under way in a thread of its own."""

    def __init__(self, stage, url):
        self.answer = self.error = None
        self.begin = time.monotonic()
        self.seconds = None

        def work():
            try:
                self.answer = stage.ask(url)
            except Exception as error:  # Reported by result().
                self.error = error
            self.seconds = time.monotonic() - self.begin

        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()

    def running(self):
        return self.thread.is_alive()

    def result(self):
        self.thread.join()
        if self.error is not None:
            raise Failed(f"the request failed: {self.error}")
        return self.answer


class Load:
    """demo/load.py as a process of its own."""

    def __init__(self, url, rate):
        self.process = subprocess.Popen([sys.executable, str(ROOT / "demo/load.py"), url, "--rate", str(rate)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise Failed("the load generator ended")
        return json.loads(line)

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def load_line(report):
    return (f"{report['requests']} requests, p50 {report['p50_ms']} ms, p99 {report['p99_ms']} ms, longest {report['max_ms']} ms, "
            f"{report['failed']} failed, {report['wrong']} wrong")


def scene_m1(stage, url, load):
    stage.say(f"M1: the store moves around under {stage.options.rate} requests/s")
    time.sleep(stage.options.pause)
    stage.say("  before: " + load_line(load.ask("report")))
    route = ("csd1", "cpm0", "host0") if stage.options.moves <= 3 else ("csd1", "csd0", "cpm0", "host0")
    targets = [route[i % len(route)] for i in range(stage.options.moves)]
    for target in targets:
        stage.migrate("M1", "store", target)
        time.sleep(stage.options.pause)
        stage.say("  load:   " + load_line(load.ask("report")))


def result_of(answer):
    """(what was computed, where that began, where it ended): services/scan.c and crunch.c tell all three."""
    values = json.loads(answer)
    began, ended = values.pop("began_on"), values.pop("ended_on")
    return values, began.split()[0], ended.split()[0]


def scan(stage, url):
    """One whole scan: (answer, seconds, bytes over csd0's link)."""
    before, begin = stage.link_bytes("csd0"), time.monotonic()
    answer = result_of(stage.ask(url))[0]
    after = stage.link_bytes("csd0")
    return answer, time.monotonic() - begin, None if after is None else after - before


def scene_m2(stage, url):
    stage.say(f"M2: a scan of {CORPUS.stat().st_size / 1e6:.0f} MB on csd0, asked for through M1")
    stage.far = scan(stage, url)
    stage.say(f"  from {stage.where('scan')}: {stage.far[1]:.1f} s, {megabytes(stage.far[2])} over the link; "
              f"{stage.far[0]['matches']} of {stage.far[0]['lines']} lines contain '{WORD}'")
    asked, before = Asked(stage, url), stage.link_bytes("csd0")
    time.sleep(stage.far[1] * 0.2)
    stage.migrate("M2", "scan", "csd0")
    answer, began, ended = result_of(asked.result())
    if (began, ended) != ("host0", "csd0"):
        stage.problems.append(f"M2: the scan was not moved in its middle: it began on {began} and ended on {ended}")
    after = stage.link_bytes("csd0")
    stage.moved = (answer, asked.seconds, None if after is None else after - before)
    stage.say(f"  moved in its middle: {asked.seconds:.1f} s, {megabytes(stage.moved[2])} over the link, same answer: {answer == stage.far[0]}")
    stage.near = scan(stage, url)
    stage.say(f"  from csd0: {stage.near[1]:.1f} s, {megabytes(stage.near[2])} over the link")
    for name, (answer, _, _) in (("moved in its middle", stage.moved), ("at its data", stage.near)):
        if answer != stage.far[0]:
            stage.problems.append(f"M2: the scan {name} answered {answer}, not {stage.far[0]}")


def scene_m3(stage, url):
    stage.say("M3: one request that only computes")
    begin = time.monotonic()
    stage.ask(f"{url}?rounds={CALIBRATION_ROUNDS}")
    rounds = int(CALIBRATION_ROUNDS * stage.options.crunch_seconds / (time.monotonic() - begin))
    url, begin = f"{url}?rounds={rounds}", time.monotonic()
    reference = result_of(stage.ask(url))[0]
    alone = time.monotonic() - begin
    stage.say(f"  without a move: {alone:.1f} s, {rounds} rounds, checksum {reference['checksum']}")
    asked = Asked(stage, url)
    moved = 0
    for target in ("csd1", "cpm0", "csd1", "host0"):
        time.sleep(alone * 0.12)
        if not asked.running():
            break
        done = stage.migrate("M3", "crunch", target)["ok"]
        moved += done and asked.running()
    answer = result_of(asked.result())[0]
    same = answer == reference
    stage.say(f"  with {moved} moves in its middle: {asked.seconds:.1f} s, same answer: {same}")
    stage.m3 = (alone, asked.seconds, moved, same)
    if not same:
        stage.problems.append(f"M3: answered {answer}, not {reference}")
    if moved < 3:
        stage.problems.append(f"M3: only {moved} moves fitted into the request")


def scene_m4(stage, url):
    stage.say("M4: the scan stays on host0, and its function goes to the data")
    if stage.where("scan") != "host0":
        stage.migrate("M4", "scan", "host0")
    stage.offloaded = scan(stage, f"{url}?word={WORD}&offload=1")
    same = stage.offloaded[0] == stage.far[0]
    stage.say(f"  {stage.offloaded[1]:.1f} s, {megabytes(stage.offloaded[2])} over the link, same answer: {same}")
    if not same:
        stage.problems.append(f"M4: answered {stage.offloaded[0]}, not {stage.far[0]}")


def megabytes(count):
    return "uncounted (no link of its own)" if count is None else f"{count / 1e6:.2f} MB"


def table(stage, final):
    isa = lambda name: stage.devices[name]["isa"]
    groups = {}
    for move in stage.moves:
        groups.setdefault((move["label"], move["from"], move["to"]), []).append(move)
    print("\nMOVE                  ISA                    MOVES  DOWNTIME MS (MAX)      SENT MB   TOTAL MS   HELD")
    for (label, source, target), moves in groups.items():
        good = [m for m in moves if m["ok"]]
        line = f"{label} {source + ' -> ' + target:18} {isa(source) + ' -> ' + isa(target):22} {len(good):5}"
        if good:
            middle = lambda key: sorted(m.get(key) or 0 for m in good)[len(good) // 2]
            line += (f"  {middle('downtime_us') / 1000:9.1f} ({max(m['downtime_us'] for m in good) / 1000:8.1f})"
                     f"  {middle('bytes_sent') / 1e6:9.2f}  {middle('total_us') / 1000:9.0f}  {max(m.get('requests_held') or 0 for m in good):5}")
        print(line + (f"  {len(moves) - len(good)} FAILED" if len(good) < len(moves) else ""))
    print(f"\nM1 requests                   {final['total']} sent, {final['failed']} failed, {final['wrong']} wrong, "
          f"{final['writes_acknowledged']} acknowledged writes, {final['keys_checked']} keys read back")
    print(f"M2 over csd0's link           host0: {megabytes(stage.far[2])} in {stage.far[1]:.1f} s; moved in its middle: {megabytes(stage.moved[2])} in "
          f"{stage.moved[1]:.1f} s; on csd0: {megabytes(stage.near[2])} in {stage.near[1]:.1f} s (counted by the interface)")
    print(f"M4 over csd0's link           the function alone, and its package where that was not there yet: {megabytes(stage.offloaded[2])} in {stage.offloaded[1]:.1f} s")
    print(f"M3 answer                     {'identical' if stage.m3[3] else 'DIFFERENT'} after {stage.m3[2]} moves; {stage.m3[0]:.1f} s undisturbed, {stage.m3[1]:.1f} s moved")
    emulated = sorted({text for device in stage.devices.values() for text in device.get("emulated", [])})
    print(f"emulated                      {'; '.join(emulated)}")


def play(stage):
    options = stage.options
    stage.say("the data set: text that this machine's packages brought")
    size = corpus.make(str(CORPUS))
    stage.say(f"  {size / 1e6:.0f} MB")
    stage.say("a cluster on this machine")
    stage.up()
    stage.say("services")
    stage.godwit("data", "put", DATASET, str(CORPUS), "--device", "csd0")
    store = stage.deploy("store")
    scan_url = stage.deploy("scan")
    crunch = stage.deploy("crunch")
    for service in ("store", "scan", "crunch"):
        if stage.where(service) != "host0":
            stage.godwit("migrate", service, "--to", "host0")
    stage.ask(f"{store}?fill={STATE_BYTES}", data=b"", method="POST")
    load = Load(store, options.rate)
    try:
        scene_m1(stage, store, load)
        scene_m2(stage, f"{store}?scan={WORD}")
        scene_m3(stage, crunch)
        scene_m4(stage, scan_url)
        stage.say("reading every key back")
        final = load.ask("stop")
        stage.say("  " + stage.ask(f"{store}?check=1").decode().strip())
    finally:
        load.end()
    if final["failed"] or final["wrong"]:
        stage.problems.append(f"M1: {final['failed']} requests failed, {final['wrong']} were wrong: {'; '.join(final['examples'][:5])}")
    table(stage, final)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="the same scene with shorter pauses, as the end-to-end test plays it")
    parser.add_argument("--moves", type=int, default=3, help="moves of M1; more than 3 go around all four devices")
    parser.add_argument("--rate", type=int, default=300, help="requests per second on M1")
    options = parser.parse_args()
    options.pause = 1.0 if options.short or options.moves > 12 else 3.0
    options.crunch_seconds = 8 if options.short else 12
    stage, done = Stage(options), False
    try:
        play(stage)
        done = True
    except Failed as error:
        stage.problems.append(str(error))
    except (OSError, subprocess.TimeoutExpired) as error:
        stage.problems.append(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        stage.problems.append("interrupted")
    finally:
        stage.down(keep_logs=bool(stage.problems))
    for problem in stage.problems:
        print(f"PROBLEM: {problem}", flush=True)
    if done and not stage.problems:
        print("""
Every request was answered, and every answer was right. To try it yourself:

  build/bin/godwit up --detach                 the same four devices
  build/bin/godwit apply -f services/hello.toml
  build/bin/godwit invoke hello
  build/bin/godwit migrate hello --to csd1     to the ARM drive
  build/bin/godwit get instances
  build/bin/godwit down""")
    return 1 if stage.problems else 0


if __name__ == "__main__":
    sys.exit(main())
