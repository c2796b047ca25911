// Drives Chromium by its DevTools protocol: node browser.mjs CHROMIUM PROFILE < steps.json > answers.json
// A step: {goto: URL}, {click: SELECTOR}, {file: [SELECTOR, PATH]}, {fill: [SELECTOR, TEXT]},
// {wait: EXPRESSION}, {ask: EXPRESSION}, whose value is an answer, or {shot: PATH} of a PNG.
import {spawn} from "node:child_process";
import {existsSync, readFileSync, writeFileSync} from "node:fs";
import {setTimeout as sleep} from "node:timers/promises";

const [browser, profile] = process.argv.slice(2);
const steps = JSON.parse(readFileSync(0, "utf8"));
const running = spawn(browser, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,760", "--hide-scrollbars",
  "--remote-debugging-port=0", `--user-data-dir=${profile}`, "about:blank",
], {stdio: "ignore"});
const said = [];

try {
  const port = `${profile}/DevToolsActivePort`;
  while (!existsSync(port) || !readFileSync(port, "utf8").includes("\n")) await sleep(50);
  const address = `http://127.0.0.1:${readFileSync(port, "utf8").split("\n")[0]}/json/list`;
  const page = (await (await fetch(address)).json()).find(target => target.type === "page");
  const socket = new WebSocket(page.webSocketDebuggerUrl);
  await new Promise(open => socket.addEventListener("open", open));
  const waiting = new Map();
  let count = 0;
  socket.addEventListener("message", event => {
    const message = JSON.parse(event.data);
    if (message.method === "Runtime.exceptionThrown")
      said.push(message.params.exceptionDetails.text);
    if (message.method === "Log.entryAdded" && message.params.entry.level === "error")
      said.push(message.params.entry.text);
    waiting.get(message.id)?.(message);
  });
  const send = async (method, params = {}) => {
    const id = ++count;
    const answer = new Promise(done => waiting.set(id, done));
    socket.send(JSON.stringify({id, method, params}));
    const {error, result} = await answer;
    if (error) throw new Error(`${method}: ${error.message}`);
    return result;
  };
  const ask = async expression => {
    const options = {expression, awaitPromise: true, returnByValue: true};
    const {result, exceptionDetails} = await send("Runtime.evaluate", options);
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception.description}`);
    return result.value;
  };
  const wait = async expression => {
    for (const end = Date.now() + 180000; !(await ask(expression)); await sleep(50))
      if (Date.now() > end) throw new Error(`waited three minutes for ${expression}`);
  };
  for (const domain of ["Page", "Runtime", "Log", "DOM"]) await send(`${domain}.enable`);
  const answers = [];
  for (const step of steps) {
    if (step.goto) {
      await send("Page.navigate", {url: step.goto});
      await wait("document.readyState === 'complete' && location.href !== 'about:blank'");
    }
    if (step.file) {
      const {root} = await send("DOM.getDocument");
      const [selector, path] = step.file;
      const {nodeId} = await send("DOM.querySelector", {nodeId: root.nodeId, selector});
      await send("DOM.setFileInputFiles", {nodeId, files: [path]});
    }
    if (step.fill) {
      const [selector, text] = step.fill.map(JSON.stringify);
      await ask(`{const field = document.querySelector(${selector}); field.value = ${text};
        field.dispatchEvent(new Event("input", {bubbles: true})); 0}`);
    }
    if (step.click) await ask(`document.querySelector(${JSON.stringify(step.click)}).click()`);
    if (step.wait) await wait(step.wait);
    if (step.ask) answers.push(await ask(step.ask));
    if (step.shot) {
      const {data} = await send("Page.captureScreenshot", {format: "png"});
      writeFileSync(step.shot, Buffer.from(data, "base64"));
    }
  }
  socket.close();
  console.log(JSON.stringify({answers, said}));
} finally {
  running.kill();
}
