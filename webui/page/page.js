// The page: asks the API each second and shows what it says. It computes nothing about packets, and puts outside text
// on the screen as text only.

const [POLL_MS, RETRY_MAX_MS, TIMEOUT_MS] = [1000, 5000, 5000];
const ROW_CAPTURE_SECONDS = 60;

// Protocols that have a name in the API, with their numbers.
const PROTOCOLS = { icmp: 1, igmp: 2, ipip: 4, tcp: 6, udp: 17, dccp: 33, ipv6: 41, gre: 47, esp: 50, ah: 51, icmpv6: 58, ospf: 89, pim: 103,
  vrrp: 112, sctp: 132, udplite: 136 };
const HAS_PORTS = ["tcp", "udp", "sctp", "dccp", "udplite"];
// Those whose ports tcpdump's filters know.
const FILTER_PORTS = ["tcp", "udp", "sctp"];
const STATES = ["none", "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close", "syn_sent2",
  "unreplied", "replied"];
// What a sender's kernel counts as sent again.
const SENT_AGAIN = ["retransmissions", "fast_retransmissions", "spurious_retransmissions", "out_of_order"];

// What the user chose, and what the API said last.
const view = { query: {}, text: "", problem: "", sort: "-bytes", cursor: null, next: null, page: 1, frozen: false, due: true, round: 0 };
const known = { status: null, interfaces: [], captures: [], flowsAt: null, answeredAt: null };

// ---- The document -------------------------------------------------------------------------------------------------
const at = (id) => document.getElementById(id);
/** An element with properties and children; text children become text nodes. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Writes only what changed, so that selections and focus stay. */
function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Brings `body` to one row per item, in order; rows of items that stay are kept and moved only when they must be. */
function syncRows(body, rows, items, create, update) {
  const wanted = new Set(items.map((item) => item.id));
  for (const [id, row] of rows) {
    if (wanted.has(id)) continue;
    row.element.remove();
    row.note?.remove();
    rows.delete(id);
  }
  let place = body.firstElementChild;
  for (const item of items) {
    if (!rows.has(item.id)) rows.set(item.id, create(item));
    const row = rows.get(item.id);
    update(row, item);
    for (const element of [row.element, row.note].filter(Boolean)) {
      if (element === place) place = place.nextElementSibling;
      else body.insertBefore(element, place);
    }
  }
}

/** One or two lines of a cell: text, title, kind (a class) and arrow. */
function paintCell(cell, lines) {
  while (cell.childElementCount > lines.length) cell.lastElementChild.remove();
  while (cell.childElementCount < lines.length) cell.append(make("span"));
  lines.forEach(({ text, title = "", kind = "", arrow }, index) => {
    const span = cell.children[index];
    setText(span, text);
    if (span.title !== title) span.title = title;
    if (span.className !== `line ${kind}`) span.className = `line ${kind}`;
    if (arrow && span.dataset.arrow !== arrow) span.dataset.arrow = arrow;
  });
}

// ---- Figures with units -------------------------------------------------------------------------------------------
const integer = new Intl.NumberFormat("en");
/** `value` in the largest unit of which it is at least 1, to three digits. */
function scaled(value, units) {
  let index = 0;
  while (value >= 999.5 && index < units.length - 1) [value, index] = [value / 1000, index + 1];
  const digits = index === 0 ? 0 : value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
  return `${value.toFixed(digits)} ${units[index]}`;
}

const count = (n) => (n < 10_000_000 ? integer.format(n) : scaled(n, ["", "k", "M", "G", "T"]));
const bytes = (n) => scaled(n, ["B", "kB", "MB", "GB", "TB"]);
const bits = (n) => scaled(n, ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"]);
const duration = (ns) => scaled(ns, ["ns", "µs", "ms", "s"]);
const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

/** The two largest units of an age. */
function age(ms) {
  const [s, m, h, d] = [1e3, 6e4, 36e5, 864e5].map((unit) => Math.max(0, Math.floor(ms / unit)));
  return d > 0 ? `${d} d ${h % 24} h` : h > 0 ? `${h} h ${m % 60} m` : m > 0 ? `${m} m ${s % 60} s` : `${s} s`;
}

// ---- The API ------------------------------------------------------------------------------------------------------
/** What the API refused, from its problem+json; status 0 where nothing answered. */
const refusal = (status, { detail, code, parameter }) => Object.assign(new Error(detail ?? `the daemon answered ${status}`), { status, code, parameter });

/** The only caller of fetch. */
async function ask(method, path, body) {
  const [headers, signal] = [body ? { "Content-Type": "application/json" } : {}, AbortSignal.timeout(TIMEOUT_MS)];
  const silence = () => { throw refusal(0, { detail: "the daemon does not answer" }); };
  const response = await fetch(`/api/v1${path}`, { method, headers, body: body && JSON.stringify(body), signal }).catch(silence);
  const answer = response.status === 204 ? {} : await response.json().catch(() => (response.ok ? silence() : {}));
  if (!response.ok) throw refusal(response.status, answer);
  return answer;
}

// ---- The filter box -----------------------------------------------------------------------------------------------
/** Terms that name what follows them. */
const KEYWORDS = { port: "port", host: "address", address: "address", proto: "protocol", protocol: "protocol", state: "state" };

/** What a term is: pairs of parameter and value; none if it is nothing that is known, or not of this kind. */
function readTerm(term, kind) {
  const word = term.toLowerCase().replaceAll("-", "_").replace(/^icmp6$/, "icmpv6");
  const address = /^(\d{1,3}(?:\.\d{1,3}){3})(?::(\d+))?$/.exec(term) ?? /^\[([0-9a-f:.]+)\](?::(\d+))?$/i.exec(term)
    ?? /^([0-9a-f.]*:[0-9a-f:.]*)$/i.exec(term);
  const pairs = kind === "protocol" || (!kind && word in PROTOCOLS) ? [["protocol", word]]
    : STATES.includes(word) ? [["state", word]]
    : /^\d+$/.test(term) ? [["port", term]]
    : address ? [["address", address[1]], ["port", address[2]]].filter(([, value]) => value) : [];
  return !kind || pairs[0]?.[0] === kind ? pairs : [];
}

/** The query of a filter's text, or the sentence that says what is not understood. */
function parseFilter(text) {
  const terms = text.trim().split(/\s+/).filter((term) => term && term.toLowerCase() !== "and");
  const query = {};
  for (let index = 0; index < terms.length; index += 1) {
    const kind = KEYWORDS[terms[index].toLowerCase()];
    if (kind) index += 1;
    if (index >= terms.length) return { problem: `\`${terms[index - 1]}\` needs a value after it` };
    const pairs = readTerm(terms[index], kind);
    const wanted = kind ? `is no ${kind}` : "is not understood; use an address, a port, a protocol like tcp or a state like established";
    if (pairs.length === 0) return { problem: `\`${terms[index]}\` ${wanted}` };
    for (const [name, value] of pairs) {
      if (name === "port" && Number(value) > 65535) return { problem: `\`${value}\` is no port; ports end at 65535` };
      if (name in query && query[name] !== value) return { problem: `\`${query[name]}\` and \`${value}\`: only one ${name} at a time` };
      query[name] = value;
    }
  }
  return { query };
}

// ---- A flow as a tcpdump filter -----------------------------------------------------------------------------------
/** Both directions of exactly this flow; of ICMP, everything between the two hosts. */
function captureFilter({ protocol, originator: a, responder: b, vlan }) {
  const ports = FILTER_PORTS.includes(protocol);
  const icmp = protocol === "icmp" || protocol === "icmpv6";
  const end = (side, { address, port }) => `${side} host ${address}${ports ? ` and ${side} port ${port}` : ""}`;
  const way = (from, to) => `(${end("src", from)} and ${end("dst", to)})`;
  const name = protocol === "icmpv6" ? "icmp6" : protocol;
  const what = ports || icmp ? name : `${a.address.includes(":") ? "ip6" : "ip"} proto ${PROTOCOLS[protocol] ?? protocol}`;
  const who = icmp && a.address !== b.address ? `host ${a.address} and host ${b.address}` : `(${way(a, b)} or ${way(b, a)})`;
  return vlan === null ? `${what} and ${who}` : `vlan ${vlan} and (${what} and ${who})`;
}

/** The latest capture of this flow's row, if there is one. */
function captureOf(flow) {
  const filter = captureFilter(flow);
  return known.captures.find((capture) => capture.filter === filter && (capture.interface ?? undefined) === flow.interface);
}

// ---- Cells of the flow table: one or two lines each ---------------------------------------------------------------
const NOTHING = { text: "–", kind: "faint" };
/** The upper line is the originator's direction, the lower one the responder's. */
const bothWays = (flow, line) => [line(flow.from_originator, "→"), line(flow.from_responder, "←")];

function endpoint(flow, { address, port }) {
  if (!HAS_PORTS.includes(flow.protocol)) return { text: address, kind: "mono" };
  return { text: address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`, kind: "mono" };
}

/** The opener above the other end; ICMP has a type in place of ports. */
function endpointsCell(flow) {
  const [originator, responder] = [endpoint(flow, flow.originator), endpoint(flow, flow.responder)];
  const { type, code, identifier } = flow.icmp ?? {};
  if (flow.icmp) originator.text += identifier === null ? ` type ${type} code ${code}` : ` type ${type} id ${identifier}`;
  return [originator, responder];
}

function stateCell(flow) {
  const notes = [flow.ended && `ended: ${flow.ended}`, flow.contended && "contended"].filter(Boolean).join(", ");
  const title = flow.contended ? "Some packets were counted but not analyzed, since another CPU held the flow" : "";
  return [{ text: flow.state }, ...(notes ? [{ text: notes, kind: "faint", title }] : [])];
}

const sinceCell = (time, now) => [{ text: age(now - Date.parse(time)), title: time }];

/** Quantiles that are bounds of octaves are marked as approximate. */
const rttLine = (quantile) => ({ rtt }, arrow) => {
  const path = `from here to the ${arrow === "→" ? "responder" : "originator"} and back`;
  if (rtt.samples === 0) return { ...NOTHING, arrow, title: `${path}: no samples yet` };
  const figures = ["min", "p50", "p95", "p99", "max"].map((name) => `${name} ${duration(rtt[`${name}_ns`])}`).join(", ");
  const within = rtt.error_factor > 1 ? `; quantiles are true within a factor of ${rtt.error_factor}` : "";
  const text = `${within ? "~" : ""}${duration(rtt[quantile])}`;
  return { text, arrow, title: `${path}: ${integer.format(rtt.samples)} samples, ${figures}${within}` };
};

function sentAgainLine({ tcp }) {
  if (!tcp) return { ...NOTHING, title: "only TCP has retransmissions" };
  const total = SENT_AGAIN.reduce((sum, name) => sum + tcp[name], 0);
  const kinds = SENT_AGAIN.map((name) => `${tcp[name]} ${name.replaceAll("_", " ")}`).join(", ");
  const title = `${integer.format(total)} of ${integer.format(tcp.segments)} segments: ${kinds}`;
  return total > 0 ? { text: `▲ ${count(total)}`, kind: "strong", title } : { text: "0", kind: "faint", title };
}

const rateLine = ({ rate: { bits_per_second: b, packets_per_second: p } }) => ({ text: bits(b), kind: b > 0 ? "" : "faint", title: `${count(Math.round(p))} packets/s` });
const packetsLine = ({ packets }) => ({ text: count(packets), title: integer.format(packets) });
const bytesLine = (half) => ({ text: bytes(half.bytes), title: `${integer.format(half.bytes)} bytes, ${integer.format(half.payload_bytes)} of payload` });
const handshakeCell = ({ handshake_rtt_ns: ns }) => [ns === null ? NOTHING : { text: duration(ns) }];

/** The state of an interface that linnet is attached to as it should be, and what the others mean. */
const ATTACHED = "attached";
const NOT_ATTACHED = { displaced: "Another tool has taken linnet off: nothing is counted here", gone: "The interface is not there any more, or not watched by this name" };

/** The interface by its name, and what is wrong with it. */
function interfaceCell({ interface: name }) {
  if (!name) return [NOTHING];
  const state = known.interfaces.find((row) => row.name === name)?.state ?? ATTACHED;
  return [{ text: name }, ...(state === ATTACHED ? [] : [{ text: state, kind: "faint", title: NOT_ATTACHED[state] }])];
}

/** A column with `sort`, the API's name, can be sorted by; those hold figures. */
const COLUMNS = [
  { label: "Protocol", lines: ({ protocol, vlan }) => [{ text: protocol, kind: "name" }, ...(vlan === null ? [] : [{ text: `vlan ${vlan}`, kind: "faint" }])] },
  { label: "Originator → responder", lines: endpointsCell },
  { label: "Interface", lines: interfaceCell },
  { label: "State", lines: stateCell },
  { label: "Age", sort: "first_seen", title: "Since the first packet", lines: (flow, now) => sinceCell(flow.first_seen, now) },
  { label: "Idle", sort: "last_seen", title: "Since the last packet", lines: (flow, now) => sinceCell(flow.last_seen, now) },
  { label: "Packets", sort: "packets", title: "Packets on the wire, each way", lines: (flow) => bothWays(flow, packetsLine) },
  { label: "Bytes", sort: "bytes", title: "Bytes of whole frames, each way", lines: (flow) => bothWays(flow, bytesLine) },
  { label: "Rate", sort: "rate", title: "Over the last sweep, each way", lines: (flow) => bothWays(flow, rateLine) },
  { label: "RTT p50", sort: "rtt.p50_ns", title: "Median round trip, each side of the path", lines: (flow) => bothWays(flow, rttLine("p50_ns")) },
  { label: "RTT p99", sort: "rtt.p99_ns", title: "99th percentile, each side of the path", lines: (flow) => bothWays(flow, rttLine("p99_ns")) },
  { label: "Handshake", sort: "handshake_rtt_ns", title: "Round trip of the TCP handshake, both sides together", lines: handshakeCell },
  { label: "Sent again", sort: "retransmissions", title: "Retransmissions of every kind, each way", lines: (flow) => bothWays(flow, sentAgainLine) },
];

// ---- The flow table -----------------------------------------------------------------------------------------------
const flowRows = new Map();
/** A click on a header sorts by it, greatest first; another turns the order round. */
function makeHeads() {
  for (const column of COLUMNS) {
    column.head = make("th", { scope: "col", title: column.title ?? "", className: column.sort ? "number" : "" });
    const onclick = () => changed({ sort: view.sort === `-${column.sort}` ? column.sort : `-${column.sort}` });
    column.head.append(column.sort ? make("button", { type: "button", onclick }, column.label) : column.label);
    at("heads").append(column.head);
  }
  at("heads").append(make("td"));
}

/** The latest time is the smallest age: there the arrow is turned round. */
function showSort() {
  const descending = view.sort.startsWith("-");
  for (const { head, sort } of COLUMNS.filter((column) => column.sort)) {
    const chosen = sort === view.sort.replace(/^-/, "");
    head.ariaSort = !chosen ? "none" : descending === sort.endsWith("_seen") ? "ascending" : "descending";
  }
}

function createFlowRow() {
  const cells = COLUMNS.map((column) => make("td", { className: column.sort ? "number" : "" }));
  const row = { cells, element: make("tr"), note: null };
  row.button = make("button", { type: "button", onclick: () => rowAction(row) });
  row.file = make("a", { className: "button", textContent: "Download", hidden: true });
  row.element.append(...cells, make("td", { className: "action" }, row.button, row.file));
  return row;
}

function updateFlowRow(row, flow) {
  row.flow = flow;
  const now = Date.parse(known.status.updated_at);
  row.element.className = flow.ended ? "ended" : "";
  COLUMNS.forEach((column, index) => paintCell(row.cells[index], column.lines(flow, now)));
  updateRowAction(row);
}

/** A row whose capture runs offers to stop it, and one that has been captured offers the file. */
function updateRowAction(row) {
  const capture = captureOf(row.flow);
  const running = capture?.state === "running";
  const ends = `${row.flow.originator.address} to ${row.flow.responder.address}`;
  setText(row.button, running ? "■ Stop" : "Capture");
  row.button.ariaLabel = `${running ? "Stop the capture of" : "Capture"} the flow from ${ends}`;
  row.button.title = running ? "" : `${captureFilter(row.flow)} on ${row.flow.interface ?? "all interfaces"}, ${ROW_CAPTURE_SECONDS} s`;
  row.file.hidden = !capture;
  if (capture) Object.assign(row.file, fileLink(capture));
}

async function rowAction(row) {
  setNote(row, null);
  const { flow } = row;
  const capture = captureOf(flow);
  try {
    if (capture?.state === "running") await ask("POST", `/captures/${capture.id}/stop`);
    else await startCapture({ filter: captureFilter(flow), interface: flow.interface, limits: { seconds: ROW_CAPTURE_SECONDS } });
    await refreshCaptures();
  } catch (problem) {
    setNote(row, problem.message);
  }
}

/** A problem directly below the row that caused it. */
function setNote(row, text) {
  row.note?.remove();
  row.note = null;
  if (text === null) return;
  const close = make("button", { type: "button", textContent: "Dismiss", onclick: () => { setNote(row, null); row.button.focus(); } });
  const cell = make("td", { colSpan: COLUMNS.length + 1 }, make("span", { className: "problem", role: "alert" }, text), close);
  row.note = make("tr", { className: "note" }, cell);
  row.element.after(row.note);
}

function showFlows({ flows, next, total }) {
  known.flowsAt = Date.now();
  view.next = next;
  syncRows(at("rows"), flowRows, flows, createFlowRow, updateFlowRow);
  const shown = total === flows.length && view.page === 1 ? "" : `, ${integer.format(flows.length)} shown`;
  const held = view.page > 1 ? `: page ${view.page} as of ${clock(known.flowsAt)}, held still` : "";
  setText(at("total"), `${integer.format(total)} ${total === 1 ? "flow" : "flows"}${shown}${held}`);
  at("next").disabled = !next;
  at("first").disabled = view.page === 1;
  showEmpty(flows.length === 0);
}

/** Says why there is nothing and what to do. */
function showEmpty(empty) {
  at("empty").hidden = !empty;
  if (!empty) return;
  const filter = [view.text, at("interface").value && `interface ${at("interface").value}`].filter(Boolean);
  const names = known.interfaces.filter(({ state }) => state !== "gone").map(({ name }) => name).join(", ");
  const [text, label, action] = view.page > 1 ? ["This page has emptied.", "First page", () => {}]
    : filter.length > 0 ? [`No ${at("ended").checked ? "" : "live "}flow matches “${filter.join("” and “")}”.`, "Clear the filter", () => { at("filter").value = at("interface").value = ""; }]
    : known.status.flows.records > 0 && !at("ended").checked ? ["No flow is live.", "Show ended flows", () => { at("ended").checked = true; }]
    : names || known.status.mode !== "live" ? [`No traffic yet on ${names || "the file that is played"}.`, "", null]
    : ["linnet watches no interface yet; name one that is up: linnet run --interface NAME", "", null];
  setText(at("empty-text"), text);
  setText(at("empty-action"), label);
  Object.assign(at("empty-action"), { hidden: !label, onclick: () => { action(); changed(); } });
}

// ---- Status, loss and interfaces ----------------------------------------------------------------------------------
/** Where packets come from, in a word or three. */
const origin = ({ mode, source }) => source === "af_packet" ? `${mode} by AF_PACKET` : mode;
function showMode(state, text) {
  at("mode").dataset.state = state;
  setText(at("mode-text"), text);
}
/** In words whether all is well, from the poll's outcome. */
function showConnection(problem) {
  document.body.toggleAttribute("data-stale", Boolean(problem));
  const since = known.answeredAt ? `: data as of ${clock(known.answeredAt)}, retrying` : ", retrying";
  if (problem) showMode("disconnected", `${problem.status === 0 ? "disconnected" : problem.message}${since}`);
  else if (view.frozen) showMode("held", `${origin(known.status)}, table frozen at ${clock(known.flowsAt)}`);
  else showMode("live", known.status.sweep.count === 0 ? `${origin(known.status)}, waiting for the first sweep` : origin(known.status));
}

function showStatus({ status, loss }) {
  known.status = status;
  const { flows, sweep, version, kernel, notices } = status;
  const table = `${integer.format(flows.live)} ${flows.capacity > 0 ? `of ${integer.format(flows.capacity)} ` : ""}flows in the table`;
  setText(at("about"), `${table}, swept in ${duration(sweep.last_duration_ns)} · linnet ${version} · kernel ${kernel}`);
  if (notices.join("\n") !== [...at("notices").children].map((item) => item.textContent).join("\n")) {
    at("notices").replaceChildren(...notices.map((notice) => make("li", {}, notice)));
  }
  if (!view.frozen) showLoss(status, loss);
}

/** The ledger as a sum, and what else was lost. */
function showLoss(status, loss) {
  const keys = Object.entries(loss.ledger).filter(([, value]) => value > 0);
  const terms = keys.map(([key, value]) => `${key} ${integer.format(value)}`).join(" + ") || "0";
  const short = Math.abs(loss.seen - keys.reduce((sum, [, value]) => sum + value, 0));
  const balanced = `✓ balanced${short > 0 ? ` but for ${short} in flight` : ""}`;
  const verdict = status.balanced ? balanced : `✗ unbalanced: the sum differs by ${integer.format(short)}`;
  const figure = (label, value, text, title) => make("span", { title, className: value > 0 ? "" : "quiet" }, `${label} `, value > 0 ? make("b", {}, text) : text);
  at("loss").replaceChildren(
    make("span", { className: status.balanced ? "good" : "bad", title: "Whether every frame seen is booked on one key of the ledger" }, verdict),
    make("span", {}, make("b", {}, `seen ${integer.format(loss.seen)}`), ` = ${terms}`),
    figure("contended", loss.contended, count(loss.contended), "Packets counted but not analyzed, since another CPU held their flow"),
    figure("evicted", loss.evicted, `${loss.approximate ? "≤ " : ""}${count(loss.evicted)}`, "Flows that left the kernel's table without having ended"),
    figure("ring lost", loss.rings.lost, count(loss.rings.lost), `Records that found no room in the capture ring, of ${integer.format(loss.rings.produced)}`),
    make("span", { className: "quiet", title: loss.since }, `since ${clock(loss.since)}`));
}

/** Fills both selects; the chosen interface stays, also when it has gone. */
function showInterfaces(interfaces) {
  known.interfaces = interfaces;
  const options = new Map([["", "all"], ...interfaces.map(({ name, state }) => [name, state === ATTACHED ? name : `${name} (${state})`])]);
  for (const select of [at("interface"), at("capture-interface")]) {
    const chosen = select.value;
    if (!options.has(chosen)) options.set(chosen, `${chosen} (unknown)`);
    if ([...options.values()].join() === [...select.options].map(({ text }) => text).join()) continue;
    select.replaceChildren(...[...options].map(([value, text]) => make("option", { value }, text)));
    select.value = chosen;
  }
}

// ---- Captures -----------------------------------------------------------------------------------------------------
const captureRows = new Map();
/** Why packets are not in a capture's file, by the keys of its `lost`. */
const lossReasons = [
  ["ring", "did not get from the kernel to linnet (before the filter)"],
  ["budget", "were beyond the kernel's rate budget"],
  ["shed", "were left out under load"],
  ["disk", "could not be written to the file"],
  ["reader", "were too much for a live reader"],
];
const fileLink = ({ id }) => ({ href: `/api/v1/captures/${id}/file`, download: `linnet-${id}.pcapng` });

const startCapture = (request) => ask("POST", "/captures", request).then(() => { at("captures").open = true; });

async function refreshCaptures() {
  const { captures } = await ask("GET", "/captures");
  known.captures = captures;
  syncRows(at("capture-rows"), captureRows, captures, createCaptureRow, updateCaptureRow);
  flowRows.forEach(updateRowAction);
  at("captures-empty").hidden = captures.length > 0;
  const running = captures.some(({ state }) => state === "running") ? ", one running" : "";
  setText(at("captures-count"), captures.length === 0 ? "" : `${captures.length}${running}`);
}

function createCaptureRow(capture) {
  const row = { element: make("tr"), cells: Array.from({ length: 7 }, () => make("td")), filter: make("code") };
  const problem = make("p", { className: "problem", role: "alert" });
  const act = (work) => () => work().then(refreshCaptures).then(() => "", (error) => error.message).then((text) => setText(problem, text));
  const remove = async () => confirm("Delete this capture and its file?") && ask("DELETE", `/captures/${capture.id}`);
  row.stop = make("button", { type: "button", textContent: "■ Stop", onclick: act(() => ask("POST", `/captures/${capture.id}/stop`)) });
  const actions = make("div", { className: "actions" }, row.stop,
    make("a", { className: "button", textContent: "Download", ...fileLink(capture) }),
    make("button", { type: "button", textContent: "Delete", onclick: act(remove) }));
  row.cells[2].append(row.filter, streamLine(capture), problem);
  row.cells.slice(4).forEach((cell) => cell.classList.add("number"));
  row.element.append(...row.cells, make("td", { className: "action" }, actions));
  return row;
}

/** The command that shows a capture in Wireshark as it grows. */
function streamLine({ id }) {
  const url = `${location.origin}/api/v1/captures/${id}/live`;
  const command = `curl -N -H "Authorization: Bearer $(sudo cat /run/linnet/token)" ${url} | wireshark -k -i -`;
  const copy = make("button", { type: "button", textContent: "Copy", title: "Copy the command that shows this capture in Wireshark as it grows" });
  copy.onclick = () => navigator.clipboard.writeText(command).then(() => "Copied", () => "Not allowed").then((text) => setText(copy, text));
  return make("div", { className: "stream" }, make("code", {}, command), copy);
}

function updateCaptureRow(row, capture) {
  const { limits, snaplen, stop_reason: reason } = capture;
  const running = capture.state === "running";
  const most = [limits.seconds && `${limits.seconds} s`, limits.packets && `${count(limits.packets)} packets`, snaplen < 65536 && `${snaplen} B each`];
  const offered = `${integer.format(capture.offered)} copied, ${integer.format(capture.matched)} wanted, ${integer.format(capture.written)} written`;
  const lost = Object.values(capture.lost).reduce((sum, packets) => sum + packets, 0);
  const losses = lossReasons.map(([key, words]) => `${integer.format(capture.lost[key])} ${words}`).join(", ");
  setText(row.filter, capture.filter || "every packet");
  row.stop.hidden = !running;
  paintCell(row.cells[0], running ? [{ text: "● running", kind: "name" }] : [{ text: capture.state }, { text: reason.replaceAll("_", " "), kind: "faint" }]);
  paintCell(row.cells[1], [{ text: capture.interface ?? "all" }]);
  paintCell(row.cells[3], [{ text: clock(capture.started_at), title: capture.started_at }, { text: `≤ ${most.filter(Boolean).join(", ")}`, kind: "faint" }]);
  paintCell(row.cells[4], [{ text: count(capture.written), title: offered }]);
  paintCell(row.cells[5], [{ text: bytes(capture.bytes), title: `${integer.format(capture.bytes)} bytes` }]);
  paintCell(row.cells[6], [lost > 0 ? { text: `▲ ${count(lost)}`, kind: "strong", title: losses } : { text: "0", kind: "faint", title: losses }]);
}

/** The form's fields as a request; a problem stands below the form, and its field is marked. */
async function submitCapture(event) {
  event.preventDefault();
  const { elements } = at("capture");
  const field = (name) => elements[name].value.trim();
  const number = (name) => (field(name) === "" ? undefined : Number(field(name)));
  const limits = { seconds: number("limits.seconds"), packets: number("limits.packets") };
  const request = { filter: field("filter"), interface: field("interface") || undefined, snaplen: number("snaplen"), limits };
  const problem = await startCapture(request).then(refreshCaptures).then(() => null, (error) => error);
  const wrong = problem?.code === "invalid_filter" ? "filter" : problem?.parameter;
  for (const element of elements) if (element.name) element.ariaInvalid = String(element.name === wrong);
  setText(at("capture-problem"), problem?.message ?? "");
  elements[wrong]?.focus();
}

// ---- Log in -------------------------------------------------------------------------------------------------------
/** Exchanges the login in the address for a session, and takes it out of the address before anything else. */
async function loginFromAddress() {
  const login = new URLSearchParams(location.hash.slice(1)).get("login");
  if (!login) return;
  history.replaceState(null, "", location.pathname);
  await ask("POST", "/sessions", { login }).catch((problem) => setText(at("login-problem"), problem.message));
}

async function submitLogin(event) {
  event.preventDefault();
  const problem = await ask("POST", "/sessions", { token: at("token").value.trim() }).then(() => "", ({ message }) => message);
  setText(at("login-problem"), problem);
  if (problem) return;
  at("token").value = "";
  wake();
}

function showLogin(wanted) {
  const before = at("login").hidden;
  at("login").hidden = !wanted;
  at("main").hidden = at("logout").hidden = wanted;
  if (wanted && before) at("token").focus();
}

// ---- Choices of the user ------------------------------------------------------------------------------------------
/** Reads the controls and asks at once. A filter that is not understood changes nothing. */
function changed({ sort = view.sort } = {}) {
  const text = at("filter").value.trim();
  const { query, problem = "" } = parseFilter(text);
  Object.assign(view, { sort, problem }, query && { query, text });
  showFilterProblem(problem);
  showSort();
  firstPage();
}

function showFilterProblem(problem) {
  setText(at("filter-problem"), problem && `${problem}. The table still shows the filter before.`);
  at("filter").ariaInvalid = String(problem !== "");
}

const firstPage = () => showPage(null, 1);

/** Asks for one page, even if the table is held. */
function showPage(cursor, page) {
  at("flows").scrollTop = 0;
  Object.assign(view, { cursor, page, due: true, round: view.round + 1 });
  wake();
}

function freeze() {
  view.frozen = !view.frozen;
  at("freeze").ariaPressed = String(view.frozen);
  wake();
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || at("main").hidden) return;
  const [slash, space] = [event.key === "/" && !event.target.matches("input, select"), event.key === " " && event.target === document.body];
  if (slash || space) event.preventDefault();
  if (slash) at("filter").select();
  if (space) freeze();
}

// ---- The loop -----------------------------------------------------------------------------------------------------
const loop = { timer: null, running: false, again: false, failures: 0 };

/** Polls now, or once more after the poll that runs. */
function wake() {
  clearTimeout(loop.timer);
  if (loop.running) loop.again = true;
  else poll();
}

/** One page of flows. Later pages are held still, since rows move between pages; an answer to what is no longer asked is dropped. */
async function pollFlows() {
  if (!view.due && (view.frozen || view.page > 1)) return;
  const { round } = view;
  const query = { ...view.query, interface: at("interface").value, sort: view.sort, limit: at("limit").value, cursor: view.cursor,
    live: at("ended").checked ? null : "true" };
  try {
    const page = await ask("GET", `/flows?${new URLSearchParams(Object.entries(query).filter(([, value]) => value))}`);
    if (round !== view.round) return;
    showFlows(page);
    if (!view.problem) showFilterProblem("");
  } catch (problem) {
    if (problem.status !== 400) throw problem;
    if (round !== view.round) return;
    showFilterProblem(`${problem.parameter}: ${problem.message}`);
  }
  view.due = false;
}

async function poll() {
  const started = performance.now();
  Object.assign(loop, { running: true, again: false });
  try {
    const [status, { interfaces }] = await Promise.all([ask("GET", "/status"), ask("GET", "/interfaces")]);
    showStatus(status);
    showInterfaces(interfaces);
    showLogin(false);
    await Promise.all([pollFlows(), refreshCaptures()]);
    loop.failures = 0;
    known.answeredAt = Date.now();
    showConnection(null);
  } catch (problem) {
    if (problem.status === undefined) throw problem;
    loop.failures += 1;
    showLogin(problem.status === 401);
    if (problem.status === 401) showMode("connecting", "not logged in");
    else showConnection(problem);
  } finally {
    loop.running = false;
    schedule(performance.now() - started);
  }
}

/** Nothing is asked while nobody looks or nobody is logged in. */
function schedule(spent) {
  clearTimeout(loop.timer);
  if (loop.again) return void poll();
  if (document.hidden || !at("login").hidden) return;
  const pause = Math.min(POLL_MS * 2 ** Math.min(loop.failures, 3), RETRY_MAX_MS);
  loop.timer = setTimeout(poll, Math.max(50, pause - spent));
}

async function start() {
  makeHeads();
  for (const id of ["filter", "interface", "limit", "ended"]) at(id).oninput = () => changed();
  at("controls").onsubmit = (event) => event.preventDefault();
  at("capture").onsubmit = submitCapture;
  at("login").onsubmit = submitLogin;
  at("logout").onclick = () => ask("DELETE", "/sessions/current").catch(() => {}).then(wake);
  at("freeze").onclick = freeze;
  at("first").onclick = firstPage;
  at("next").onclick = () => showPage(view.next, view.page + 1);
  document.addEventListener("keydown", onKey);
  document.addEventListener("visibilitychange", () => document.hidden || wake());
  await loginFromAddress();
  changed();
}

start();
