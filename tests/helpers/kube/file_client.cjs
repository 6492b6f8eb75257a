// The same as file_client.py in Node.js: CA_FILE TOKEN_FILE SERVERS_FILE.
const fs = require("fs");
const https = require("https");

const [caFile, tokenFile, serversFile] = process.argv.slice(2);
const ca = fs.readFileSync(caFile);

function ask(address, port, token) {
  return new Promise((resolve) => {
    const options = { host: address, port, path: "/api", ca, agent: false, timeout: 20000 };
    const request = https.get({ ...options, headers: { Authorization: `Bearer ${token}` } }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", (error) => resolve(`${error.code}: ${error.message}`));
      response.on("end", () => {
        const body = Buffer.concat(parts).toString();
        resolve(response.statusCode === 200 ? "" : `${response.statusCode} ${body.slice(0, 300)}`);
      });
    });
    request.on("timeout", () => request.destroy(new Error("timed out")));
    request.on("error", (error) => resolve(`${error.code}: ${error.message}`));
  });
}

async function main() {
  for (let number = 0; ; number++) {
    const at = Date.now() / 1000;
    let error;
    try {
      const known = JSON.parse(fs.readFileSync(serversFile, "utf8"));
      error = await ask(...known[number % known.length], fs.readFileSync(tokenFile, "utf8"));
    } catch (problem) {
      error = `${problem.code}: ${problem.message}`;
    }
    process.stdout.write(`${JSON.stringify({ at, error })}\n`);
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}

main();
