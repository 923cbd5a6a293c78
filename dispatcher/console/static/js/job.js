// One job: the answer first (why it waits, or what failed), then where its time went, what it used,
// what it says.

import { useEffect, useRef, useState } from "preact/hooks";
import { address, get, post } from "./api.js";
import { FINAL, bytes, duration, megabytes, moment, staged } from "./format.js";
import { Feedback } from "./feedback.js";
import { listen, now } from "./live.js";
import { html, Ago, Card, Command, JobLink, State, Trouble } from "./parts.js";
import { link } from "./query.js";
import { Timeline } from "./lanes.js";
import { Curves } from "./curves.js";
import { LogView } from "./logview.js";
import { Items } from "./items.js";
import { Nodes } from "./nodes.js";

/** @param {{id: number, params: Record<string, string>, go: (to: any) => void}} props */
export function Job({ id, params, go }) {
  const [seen, setSeen] = useState(/** @type {any} */ (null));
  const [error, setError] = useState(/** @type {any} */ (null));
  useEffect(() => {
    let current = true;
    let stop = () => {};
    const heard = (/** @type {any} */ news) => setSeen((/** @type {any} */ old) => ({
      detail: news.detail, why: news.why,
      samples: news.after > 0 ? joined(old?.samples ?? [], news.samples) : news.samples,
    }));
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let again;
    // asked first: a job that is not there, or not ours, gets an answer in words and no stream, which
    // would be refused again and again
    const ask = () => get(`jobs/${id}`).then((detail) => {
      if (!current) return;
      setSeen({ detail, why: null, samples: [] });
      stop = listen(`job:${id}`, heard);
    }, (problem) => {
      if (!current) return;
      setError(problem);
      if (problem.status === 0 || problem.status >= 500) again = setTimeout(ask, 3000);
    });
    ask();
    return () => { current = false; clearTimeout(again); stop(); };
  }, [id]);
  if (error && !seen) return html`<div class="heading"><h1>Job ${id}</h1></div><${Trouble} error=${error} /><p><a href="#/jobs">All jobs</a></p>`;
  if (!seen) return html`<div class="heading"><h1>Job ${id}</h1></div><div class="loading">Loading…</div>`;
  const { detail, why, samples } = seen;
  const { row, spec, attempts } = detail;
  return html`
    <div class="heading job">
      <p class="crumb"><a href="#/jobs">Jobs</a> / <span class="num">${id}</span></p>
      <h1>${row.name}</h1><${State} state=${row.state} />
      <${Actions} row=${row} go=${go} />
    </div>
    <p class="subject">
      <span>queue <a href=${link({ page: "jobs", params: { queue: row.queue } })}>${row.queue || "any"}</a></span>
      <span>user <a href=${link({ page: "jobs", params: { user: row.user } })}>${row.user}</a></span>
      ${detail.submission && html`<span>submission <a href=${link({ page: "submission", id: detail.submission })}>${detail.submission}</a></span>`}
      ${/^\d{1,15}$/.test(spec.labels?.task ?? "") && html`<span>task <a href=${link({ page: "task", id: Number(spec.labels.task) })}>${spec.labels.task}</a></span>`}
      <span>attempt ${row.attempt_nr || "–"}${spec.max_attempts ? ` of ${spec.max_attempts}` : ""}</span>
      <span>priority ${row.priority}</span>
      <span>submitted <${Ago} at=${row.created} past /></span>
    </p>
    <${Answer} row=${row} why=${why} attempts=${attempts} files=${detail.files} />
    ${detail.items && html`<${Items} id=${id} counts=${detail.items} params=${params} />`}
    <${Timeline} detail=${detail} />
    <${LogView} id=${id} attempts=${attempts.length} final=${FINAL.has(row.state)} latest=${row.attempt_nr} whole=${detail.files.find((/** @type {any} */ file) => file.name === "log.tgz")?.url ?? ""} params=${params} go=${go} />
    <${Curves} samples=${samples} spec=${spec} />
    <${Nodes} title="On each node" nodes=${attempts[attempts.length - 1]?.usage?.nodes ?? []} />
    <div class="columns">
      <${Asked} spec=${spec} />
      <${Files} detail=${detail} />
    </div>
    <${Attempts} attempts=${attempts} />
    <p class="aside"><${Command} text=${`dispatcher show ${id}`} /></p>`;
}

/** @param {any[]} old @param {any[]} fresh */
const joined = (old, fresh) => {
  const last = old.length ? old[old.length - 1].at : 0;
  return [...old, ...fresh.filter((sample) => sample.at > last)];
};

/** Cancel and retry; both say what happened. @param {{row: any, go: (to: any) => void}} props */
function Actions({ row, go }) {
  const [said, setSaid] = useState("");
  const [error, setError] = useState(/** @type {any} */ (null));
  const box = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const act = async (/** @type {() => Promise<string>} */ what) => {
    setError(null);
    try { setSaid(await what()); } catch (problem) { setError(problem); }
  };
  const cancel = () => act(async () => {
    box.current?.close();
    const answer = await post("jobs/cancel", { job_ids: [row.job_id] });
    return answer.cancelled.length ? "Cancelled." : "It had already ended.";
  });
  const retry = () => act(async () => {
    const answer = await post("jobs/retry", { job_ids: [row.job_id] });
    go({ id: answer.job_ids[0] });
    return "";
  });
  return html`<div class="actions">
    <span class="dim" role="status">${said}</span>
    ${FINAL.has(row.state)
      ? html`<button type="button" onClick=${retry}>Retry as a new job</button>`
      : html`<button type="button" class="danger" onClick=${() => box.current?.showModal()}>Cancel</button>`}
    <dialog ref=${box} aria-label="Cancel this job?"><h2>Cancel job ${row.job_id}?</h2>
      <p>It stops where it is; jobs that wait for it end too. This cannot be undone.</p>
      <div class="actions"><button type="button" onClick=${() => box.current?.close()}>Keep it</button><button type="button" class="danger" onClick=${cancel}>Cancel the job</button></div></dialog>
    <${Trouble} error=${error} /></div>`;
}

/** What a reader came for: what failed and what helps, how it went, or why it is not done yet.
 *  @param {{row: any, why: any, attempts: any[], files: any[]}} props */
function Answer({ row, why, attempts, files }) {
  const last = attempts[attempts.length - 1];
  const where = last && [last.host && `on ${last.host}`, last.site && `at ${last.site}`, last.runtime && `in ${last.runtime}`,
    last.exit_code !== null && `exit code ${last.exit_code}`, attempts.length > 1 && `after ${attempts.length} attempts`].filter(Boolean).join(", ");
  if (row.state === "failed") {
    const remedy = last?.remedy || why?.remedy;
    return html`<section class="answer bad" aria-label="What failed">
      <p class="lead"><b class="code">${row.code || "failed"}</b> ${row.diagnosis || last?.diagnosis || "The job failed and nobody said why."}</p>
      ${remedy && html`<p class="remedy"><b>What helps:</b> ${remedy}</p>`}
      ${where && html`<p class="note">${where}</p>`}
      ${last?.stderr_tail && html`<pre tabindex="0" aria-label="The end of stderr">${last.stderr_tail}</pre>`}
    </section>`;
  }
  if (row.state === "finished" && last) {
    const left = files.reduce((all, file) => all + file.size, 0);
    return html`<section class="answer good" aria-label="How it went">
      <p class="lead">Finished ${duration(row.changed - row.created)} after it was submitted${files.length ? `, leaving ${files.length === 1 ? "one file" : `${files.length} files`} of ${bytes(left)}` : ""}.</p>
      ${where && html`<p class="note">${where}</p>`}
      ${last.result && html`<pre tabindex="0" aria-label="Its result">${last.result}</pre>`}</section>`;
  }
  if (!why) return null;
  const moving = last?.staging;
  return html`<section class="answer" data-verdict=${why.verdict} aria-label="Why it is where it is">
    <p class="lead">${why.sentence}</p>
    ${moving && html`<${Staged} staging=${moving} />`}
    ${why.blockers.length > 0 && html`<ul>${why.blockers.map((/** @type {string} */ text, /** @type {number} */ at) => html`<li key=${at}>${text}</li>`)}</ul>`}
    ${why.remedy && html`<p class="remedy"><b>What helps:</b> ${why.remedy}</p>`}
    <${Feedback} about=${`why ${row.job_id}`}>Is this clear?</${Feedback}>
  </section>`;
}

/** How far the files are that move before or after the payload. @param {{staging: any}} props */
function Staged({ staging }) {
  const { files, done, moved_bytes: moved, total_bytes: total } = { files: 0, done: 0, moved_bytes: 0, total_bytes: null, ...staging };
  const part = Math.min(1, total ? moved / total : done / Math.max(1, files));
  const text = staged(staging);
  return html`<div class="staged"><div class="gauge" role="progressbar" aria-label="Files moved" aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(100 * part)}
    aria-valuetext=${text}><i style=${{ width: `${100 * part}%` }}></i></div><p class="note">${text}</p></div>`;
}

/** @param {{spec: any}} props */
const Asked = ({ spec }) => html`<${Card} title="What it asked for">
  <dl class="facts">
    <div><dt>cores</dt><dd>${spec.cores ?? 1}</dd></div>
    <div><dt>memory</dt><dd>${megabytes(spec.memory_mb ?? 2000)}</dd></div>
    <div><dt>disk</dt><dd>${megabytes(spec.disk_mb ?? 2000)}</dd></div>
    ${spec.gpus > 0 && html`<div><dt>GPUs</dt><dd>${spec.gpu_share ? `${spec.gpu_share / 100} of one` : spec.gpus}</dd></div>`}
    <div><dt>walltime</dt><dd>${spec.walltime_s ? duration(spec.walltime_s) : "no limit"}</dd></div>
    ${spec.container && html`<div><dt>container</dt><dd>${spec.container}</dd></div>`}
  </dl>
  ${(spec.script || spec.command) && html`<pre class="script" tabindex="0" aria-label="Command">${spec.script || spec.command}</pre>`}
</${Card}>`;

/** @param {{detail: any}} props */
function Files({ detail }) {
  const { spec, files, parents, children } = detail;
  const ids = (/** @type {number[]} */ all) => all.slice(0, 30).map((id) => html`<${JobLink} key=${id} id=${id} /> `);
  return html`<${Card} title="Files and neighbours">
    ${spec.inputs?.length > 0 && html`<h3>Inputs</h3><ul class="files">${spec.inputs.map((/** @type {any} */ file) => html`<${Input} key=${file.name} id=${detail.row.job_id} file=${file} />`)}</ul>`}
    ${files.length > 0 && html`<h3>Outputs</h3><ul class="files">${files.map((/** @type {any} */ file) => html`<${Output} key=${file.name} file=${file} />`)}</ul>
      <p><${Command} text=${`dispatcher get ${detail.row.job_id}`} /></p>`}
    ${!files.length && spec.outputs?.length > 0 && html`<h3>Will leave</h3><ul class="files">${spec.outputs.map((/** @type {any} */ file) => html`<li key=${file.name}><b>${file.name}</b></li>`)}</ul>`}
    ${parents.length > 0 && html`<h3>Waits for</h3><p class="ids">${ids(parents)}${parents.length > 30 ? `and ${parents.length - 30} more` : ""}</p>`}
    ${children.length > 0 && html`<h3>Feeds</h3><p class="ids">${ids(children)}${children.length > 30 ? `and ${children.length - 30} more` : ""}</p>`}
    ${!files.length && !spec.inputs?.length && !spec.outputs?.length && !parents.length && !children.length && html`<p class="dim">It reads and leaves no files, and no job waits for it.</p>`}
  </${Card}>`;
}

/** What travelled with the job is here, and can be had; what else it reads is where it was.
 *  @param {{id: number, file: any}} props */
const Input = ({ id, file }) => {
  const sha256 = /^upload:\/\/(?:file|program)\/([0-9a-f]{64})$/.exec(file.url ?? "")?.[1];
  return html`<li><b>${file.name}</b>${file.size !== undefined && html`<span class="num">${bytes(file.size)}</span>`}
    ${sha256 ? html`<a download href=${address(`jobs/${id}/file`, { name: file.name }).href}>download</a><code class="dim">sha256 ${sha256}</code>` : html`<span class="dim">${file.url}</span>`}
    ${file.adler32 && html`<code class="dim">adler32 ${file.adler32}</code>`}${file.md5 && html`<code class="dim">md5 ${file.md5}</code>`}</li>`;
};

/** An output in storage. A browser may open what is there by http, unless its address has a secret, which is
 *  not shown: then it ends in `?…`. @param {{file: any}} props */
const Output = ({ file }) => html`<li><b>${file.name}</b><span class="num">${bytes(file.size)}</span>
  ${/^https?:\/\/[^?#…@]+$/.test(file.url) ? html`<a href=${file.url} target="_blank" rel="noopener noreferrer">${file.url}</a>` : html`<span class="dim">${file.url}</span>`}
  <code class="dim">adler32 ${file.adler32}</code></li>`;

/** @param {{attempts: any[]}} props */
const Attempts = ({ attempts }) => attempts.length > 0 && html`<${Card} title="Attempts">
  <div class="scroll" tabindex="0" role="region" aria-label="Table of attempts"><table class="plain"><thead><tr><th class="n">Nr</th><th>State</th><th>Host</th><th class="n">Worker</th><th>Leased</th><th class="n">Took</th><th class="n">CPU</th><th class="n">Peak memory</th><th class="grow">Outcome</th></tr></thead>
  <tbody>${attempts.map((a) => html`<tr key=${a.attempt_nr}>
    <th scope="row" class="n">${a.attempt_nr}</th><td><${State} state=${a.state} /></td><td>${a.host || "–"}${a.site ? html`<div class="note">${a.site}</div>` : ""}</td><td class="n"><a href=${link({ page: "worker", id: a.worker_id })}>${a.worker_id}</a></td>
    <td>${moment(a.leased)}</td><td class="n">${duration((a.ended ?? now.value) - a.leased)}</td>
    <td class="n">${a.usage ? duration(a.usage.cpu_s ?? 0) : "–"}</td><td class="n">${a.usage ? bytes(1024 * Math.max(a.usage.max_pss_kb ?? 0, a.usage.max_rss_kb ?? 0)) : "–"}</td>
    <td class="grow">${a.code ? html`<b>${a.code}</b> ` : ""}${a.diagnosis || (a.exit_code === 0 ? "exit code 0" : "")}</td></tr>`)}
  </tbody></table></div></${Card}>`;
