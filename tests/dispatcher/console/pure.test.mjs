// The modules that know no page: run by `node --test`.
import assert from "node:assert/strict";
import test from "node:test";

const at = (/** @type {string} */ name) => import(`../../../dispatcher/console/static/js/${name}.js`);
const { age, bytes, duration, grouped, short, staged, statesOf } = await at("format");
const { pieces } = await at("ansi");
const { Logbook, lined, marked, named } = await at("logbook");
const { lanes, totals } = await at("timeline");
const { asCommand, link, parse, spoken, understand } = await at("query");
const { matches, merged, visible } = await at("rows");
const steps = await at("steps");
const { nearest, peakMemory, series, thinned } = await at("series");
const { asUsage, columns, coreHours, share } = await at("sums");

test("numbers read as people write them", () => {
  assert.deepEqual([0.01, 0.4, 12, 185, 7800, 270_000].map(duration), ["10 ms", "0.4 s", "12 s", "3 m 05 s", "2 h 10 m", "3 d 3 h"]);
  assert.deepEqual([59.6, 3599.9].map(duration), ["1 m 00 s", "1 h 00 m"]);
  assert.deepEqual([0.3, 3.9, 61].map(age), ["now", "3 s", "1 m 01 s"]);
  assert.deepEqual([0, 1023, 1536, 5 * 2 ** 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "5 GiB"]);
  assert.deepEqual([999, 12_345, 3_400_000].map(short), ["999", "12.3k", "3.4M"]);
});

test("files that move tell how far they are, and when they will be there only if that is known", () => {
  const half = { files: 4, done: 1, moved_bytes: 2 ** 20, total_bytes: 3 * 2 ** 20, seconds: 2 };
  assert.equal(staged(half), "1 of 4 files, 1 MiB of 3 MiB, 512 KiB/s, 4.0 s left");
  assert.equal(staged({ ...half, total_bytes: null }), "1 of 4 files, 1 MiB, 512 KiB/s");
  assert.equal(staged({ files: 2 }), "0 of 2 files, 0 B");
  assert.equal(staged({ ...half, moved_bytes: 3 * 2 ** 20, done: 4 }), "4 of 4 files, 3 MiB of 3 MiB, 1.5 MiB/s");
});

test("every state is in one group, and a group's filter gives its states back", () => {
  const sums = grouped({ activated: 3, pending: 1, sent: 2, finished: 9, closed: 4 });
  assert.equal(sums.waiting + sums.blocked + sums.staging + sums.finished + sums.cancelled, 19);
  assert.equal(statesOf("staging"), "sent,starting");
});

test("colours become classes", () => {
  assert.deepEqual(pieces("\x1b[1;31mred\x1b[0m plain"), [{ text: "red", cls: "fg1 b" }, { text: " plain", cls: "" }]);
  assert.deepEqual(pieces("\x1b[38;5;196mx"), [{ text: "x", cls: "fg9" }]);
  assert.deepEqual(pieces("\x1b[38;2;0;255;0mx\x1b[39my"), [{ text: "x", cls: "fg10" }, { text: "y", cls: "" }]);
  assert.deepEqual(pieces("\x1b[48:5:4mx"), [{ text: "x", cls: "bg4" }]);
});

test("P11 no other escape has any effect", () => {
  const text = (/** @type {string} */ line) => pieces(line).map((/** @type {any} */ piece) => piece.text).join("");
  assert.equal(text("\x1b]8;;https://evil.example\x07click\x1b]8;;\x07"), "click");
  assert.equal(text("\x1b]0;title\x1b\\a\x1b[2J\x1b[10;10Hb\x1b(Bc\x1bcd"), "abcd");
  assert.equal(text("\x1b]52;c;c3RlYWw="), "");
  assert.equal(text("\x9b31mx\x00\x07\x08y\x7f"), "xy");
  assert.equal(text("user\u202Etxt.exe\u2066"), "usertxt.exe");
  assert.equal(text("10%\r50%\r100%\r"), "100%");
  assert.equal(text("<img src=x onerror=alert(1)>"), "<img src=x onerror=alert(1)>");
  assert.deepEqual(pieces("\x1b[31;:;;m\x1b[99999999999999mx"), [{ text: "x", cls: "" }]);
  assert.deepEqual(pieces("\x1b[constructorm"), [{ text: "onstructorm", cls: "" }]);
});

test("any mess of escapes ends, quickly", () => {
  const soup = ["\x1b", "[", "]", ";", "8", "m", "\x9d", "\x07", "\\", "a", "\r", "38;5;"];
  let seed = 7;
  const next = () => (seed = (seed * 1103515245 + 12345) % 2 ** 31) % soup.length;
  const began = Date.now();
  for (let round = 0; round < 2000; round += 1) {
    const shown = pieces(Array.from({ length: 60 }, () => soup[next()]).join(""));
    for (const { text, cls } of shown) {
      assert.doesNotMatch(text, /[\x00-\x08\x0a-\x1f\x7f-\x9f]/);
      assert.match(cls, /^((fg|bg)\d{1,2}|[bdiu]| )*$/);
    }
  }
  pieces("\x1b]".repeat(50_000));
  pieces("\x1b[".repeat(50_000));
  assert.ok(Date.now() - began < 3000);
});

test("a log grows by chunks that overlap, repeat and leave gaps", () => {
  const book = new Logbook();
  assert.equal(book.add({ offset: 0, end: 9, text: "one\ntwo\nt" }), "added");
  assert.equal(book.add({ offset: 4, end: 9, text: "two\nt" }), "known");
  assert.equal(book.add({ offset: 8, end: 13, text: "three" }), "added");
  assert.deepEqual(book.lines, ["one", "two", "three"]);
  assert.equal(book.add({ offset: 20, end: 22, text: "xx" }), "gap");
  assert.equal(book.add({ offset: 13, end: 20, text: "\n\nfive\n" }), "added");
  assert.deepEqual(book.lines, ["one", "two", "three", "", "five"]);
});

test("H2 bytes that nobody keeps are a hole, not a gap to be fetched", () => {
  const book = new Logbook();
  book.add({ offset: 0, end: 4, text: "one\n" });
  assert.equal(book.add({ offset: 100, end: 104, text: "end\n" }), "gap");
  assert.equal(book.add({ offset: 100, end: 104, text: "end\n", skipped: 96, size: 104, kept: 8, final: true }), "added");
  assert.deepEqual([book.lines, [...book.holes], book.size, book.kept], [["one", "end"], [[2, 96]], 104, 8]);
});

test("an overlap is counted in bytes, not characters", () => {
  const book = new Logbook();
  book.add({ offset: 0, end: 5, text: "μμ " });
  book.add({ offset: 2, end: 9, text: "μ GeV" });
  assert.deepEqual(book.lines, ["μμ GeV"]);
});

test("a long log keeps its newest lines and their numbers", () => {
  const book = new Logbook(3);
  book.add({ offset: 0, end: 10, text: "1\n2\n3\n4\n5\n" });
  assert.deepEqual([book.lines, book.first], [["3", "4", "5"], 3]);
  assert.deepEqual(book.find("5"), [2]);
  assert.deepEqual(marked("aXbxc", "x"), [
    { text: "a", hit: false }, { text: "X", hit: true }, { text: "b", hit: false }, { text: "x", hit: true }, { text: "c", hit: false },
  ]);
});

test("a link marks lines, and what is none marks nothing", () => {
  assert.deepEqual(lined("stderr.L120-140"), { stream: "stderr", first: 120, last: 140 });
  assert.deepEqual(lined(named("stdout", 9, 3)), { stream: "stdout", first: 3, last: 9 });
  assert.equal(named("stdout", 4, 4), "stdout.L4");
  for (const odd of ["", "stdout", "pilot.L1", "stdout.L", "stdout.L1-2-3", "stdout.L1e9"]) assert.equal(lined(odd), null);
});

const row = { job_id: 1, state: "finished", created: 100, changed: 160 };
const attempt = { attempt_nr: 1, worker_id: 5, leased: 120, started: 121, running: 125, holding: 150, ended: 160, timing: {} };
const drawn = (/** @type {any} */ all) => all.map((/** @type {any} */ lane) => lane.segments.map((/** @type {any} */ s) => `${s.kind} ${s.from}-${s.to}`));

test("every second of a job has a name", () => {
  const all = lanes({ row, attempts: [{ ...attempt, registered: 115 }], activated: 110 }, 999);
  assert.deepEqual(drawn(all), [["blocked 100-110", "batch 110-115", "waiting 115-120", "staging 120-125", "running 125-150", "reporting 150-160"]]);
  assert.equal(totals(all).reduce((sum, [, seconds]) => sum + seconds, 0), 60);
});

test("a lost attempt is followed by a wait and another lane", () => {
  const lost = { ...attempt, holding: null, ended: 140 };
  const second = { ...attempt, attempt_nr: 2, leased: 150, running: 152, holding: null, ended: null };
  const all = lanes({ row: { ...row, state: "running" }, attempts: [lost, second], activated: 140 }, 170);
  assert.deepEqual(drawn(all), [["waiting 100-120", "staging 120-125", "running 125-140"], ["waiting 140-150", "staging 150-152", "running 152-170"]]);
  assert.ok(all[1].segments[2].live);
});

test("a job that waits is drawn as waiting, one without parents' end as blocked", () => {
  assert.deepEqual(drawn(lanes({ row: { ...row, state: "activated" }, attempts: [], activated: 100 }, 130)), [["waiting 100-130"]]);
  assert.deepEqual(drawn(lanes({ row: { ...row, state: "pending" }, attempts: [], activated: null }, 130)), [["blocked 100-130"]]);
});

test("a prefetched job's wait for its slot is not staging", () => {
  const all = lanes({ row, attempts: [{ ...attempt, timing: { wait: 3 } }], activated: 100 }, 999);
  assert.deepEqual(drawn(all)[0].slice(1, 3), ["staging 120-122", "waiting 122-125"]);
});

test("an address is a view, and back", () => {
  const place = { page: "jobs", id: null, params: { state: "failed", name: "a&b=c#*" } };
  assert.deepEqual(parse(link(place)), place);
  assert.deepEqual(parse("#/jobs/42"), { page: "job", id: 42, params: {} });
  assert.deepEqual(parse(link({ page: "worker", id: 7 })), { page: "worker", id: 7, params: {} });
  for (const odd of ["", "#", "#/nowhere", "#/jobs/../..", "#/job", "#/constructor", "#/__proto__"]) assert.ok(["overview", "jobs"].includes(parse(odd).page));
});

test("the search box understands the command line's words", () => {
  assert.deepEqual(understand("state:failed queue:x error:1099 zmumu"), { filter: { state: "failed", queue: "x", code: "1099", name: "zmumu*" }, job: null });
  assert.equal(understand("#4711").job, 4711);
  for (const text of ["color:red", "code:x", "a b", "state:failed or age<2h", 'text:"disk full"', "not state:failed", "state:open", "queue:a,b"])
    assert.deepEqual(understand(text), { filter: { query: text }, job: null });
  assert.equal(spoken({ state: "failed", query: "age<2h or b" }), "state:failed (age<2h or b)");
  assert.equal(spoken({ state: "failed", user: "me" }), "state:failed user:me");
  assert.equal(asCommand({ name: "it's*" }), "dispatcher jobs 'name:it'\\''s*'");
});

test("rows change in place and nothing jumps", () => {
  const rows = [{ job_id: 3, state: "running" }, { job_id: 2, state: "running" }];
  const after = merged(rows, [{ job_id: 2, state: "finished" }, { job_id: 4, state: "running" }, { job_id: 1, state: "running" }], { state: "running" });
  assert.deepEqual(after.map((/** @type {any} */ r) => [r.job_id, r.state, Boolean(r.left)]), [[4, "running", false], [3, "running", false], [2, "finished", true]]);
  assert.ok(matches({ job_id: 1, state: "x", name: "zmumu-1" }, { name: "zmumu*" }));
});

test("a table of a million rows draws a window", () => {
  const { first, last } = visible(20_000_000, 800, 40, 1_000_000);
  assert.ok(first > 499_900 && last - first < 60);
});

test("CPU seconds become cores, and thinning keeps the peak", () => {
  const samples = [0, 10, 20].map((s) => ({ at: s, usage: { cpu_s: s * 3, wall_s: s } }));
  assert.deepEqual(series(samples).cores, [null, 3, 3]);
  const x = Array.from({ length: 100_000 }, (_, i) => i);
  const y = x.map((i) => (i === 77_777 ? 99 : 1));
  const few = thinned(x, y, 600);
  assert.ok(few.length <= 1200 && few.some(([, value]) => value === 99));
  assert.equal(nearest([0, 10, 20], 14), 1);
});

test("GPUs have curves where one was in use", () => {
  const samples = [0, 10, 20].map((s) => ({ at: s, usage: { wall_s: s, gpu_s: s / 2, gpu_memory_mb: 3, max_gpu_memory_mb: 3 } }));
  assert.deepEqual(series(samples).gpus, [null, 0.5, 0.5]);
  assert.deepEqual(series(samples).gpuMemory, [3_145_728, 3_145_728, 3_145_728]);
  const only = [{ at: 9, usage: { wall_s: 4, gpu_s: 2, max_gpu_memory_mb: 1 } }];
  assert.deepEqual(series(only).gpus, [0.5, 0.5]);
  assert.deepEqual(series([{ at: 1, usage: {} }, { at: 2, usage: {} }]).gpus, []);
});

test("W8 a payload shorter than a heartbeat has a curve of its final figures", () => {
  const only = [{ at: 100, usage: { cpu_s: 0.8, wall_s: 1, max_rss_kb: 100, disk_mb: 3 } }];
  assert.deepEqual(series(only), { at: [99, 100], cores: [0.8, 0.8], memory: [102_400, 102_400], disk: [3_145_728, 3_145_728], gpus: [], gpuMemory: [0, 0] });
  const two = [{ at: 0, usage: { rss_kb: 900 } }, { at: 9, usage: { rss_kb: 10, max_rss_kb: 500, max_pss_kb: 700 } }];
  assert.equal(peakMemory(two), 700 * 1024);
  assert.equal(peakMemory([{ usage: { rss_kb: 5 } }]), 5120);
});

test("steps of a task lie right of all that they come after, and a gate is told from files", () => {
  const { boxes, lines } = steps.layered([
    { name: "gen", over: { range: { from: 1, to: 9 } } },
    { name: "digi", over: { outputs: "gen" } },
    { name: "merge", over: { outputs: ["gen", "digi"] } },
    { name: "plots", over: { list: ["a"] }, gate: { after: "gen 90%" } },
    { name: "alone", over: { list: ["a"] }, gate: { staged: "DISK" } },
  ]);
  assert.deepEqual(boxes.map((box) => [box.column, box.row]), [[0, 0], [1, 0], [2, 0], [1, 1], [0, 1]]);
  assert.deepEqual(lines.map((line) => `${line.from}${line.gate ? "-" : "="}${line.to}`), ["0=1", "0=2", "1=2", "0-3"]);
  // what no dispatcher sends draws no line, and hangs nothing
  assert.deepEqual(steps.layered([{ name: "a", over: { outputs: ["a", "b"] } }, { name: "b", over: { outputs: "a" } }]).lines.length, 1);
});

test("the rate of a task is that of what was watched, and no time left is told where more may come", () => {
  const step = { items: 100, finished: 30, failed: 10, open: 20, waiting: 40, closed: true };
  const row = { state: "running", created: 0, steps: [step] };
  assert.deepEqual(steps.pace(row, 400, { at: 390, ended: 39 }), { ended: 40, rate: 0.1, watched: false, left: 600, known: true });
  assert.deepEqual(steps.pace(row, 400, { at: 360, ended: 20 }), { ended: 40, rate: 0.5, watched: true, left: 120, known: true });
  assert.equal(steps.pace({ ...row, state: "paused" }, 400, { at: 360, ended: 20 }).left, null);
  assert.equal(steps.pace({ ...row, steps: [{ ...step, closed: false }] }, 400, { at: 360, ended: 20 }).left, null);
  assert.deepEqual([12, 0.5, 0.001].map(steps.rated), ["12 a second", "30 a minute", "3.6 an hour"]);
});

test("a task has an address as a job has", () => {
  assert.deepEqual(parse("#/tasks/7?step=a"), { page: "task", id: 7, params: { step: "a" } });
  assert.equal(link({ page: "task", id: 7, params: { items: "failed" } }), "#/tasks/7?items=failed");
});

test("usage is told in hours, with a column for each day, also where nothing ended, and as a command", () => {
  assert.deepEqual([0, 45, 3600, 5_400_000].map(coreHours), ["0", "0.0125", "1", "1,500"]);
  assert.deepEqual([share(1, 3), share(1, 0)], ["33%", "–"]);
  const day = 86_400;
  const overTime = [{ at: 0, span: "day", core_s: { finished: 2 } }, { at: 2 * day, span: "hour", core_s: { lost: 1 } }, { at: 2 * day + 3600, span: "hour", core_s: { lost: 1 } }];
  assert.deepEqual(columns(overTime, "7d", 0, 2 * day + 7200), [
    { at: "1970-01-01", parts: { finished: 2 } }, { at: "1970-01-02", parts: {} }, { at: "1970-01-03", parts: { lost: 2 } },
  ]);
  assert.equal(asUsage({ by: "label:a b", range: "1y", user: "", queue: "it's" }), "dispatcher usage --by 'label:a b' --since 365d --queue 'it'\\''s'");
});
