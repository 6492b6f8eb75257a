// The search runs in a worker, which browsers refuse to a page from a folder. There a hidden frame stands for it.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const { contentDocument: page, contentWindow: inside } = this.frame;
      addEventListener("message", ({ source, data }) => {
        if (source !== inside) return;
        const message = new MessageEvent("message", { data });
        this.dispatchEvent(message);
        this.onmessage?.(message);
      });
      page.open();
      page.write(`<script>
        window.postMessage = data => parent.postMessage(data, "*");
        window.importScripts = (...urls) => Promise.all(urls.map(url => new Promise((done, failed) => {
          const script = document.createElement("script");
          Object.assign(script, { src: url, async: false, onload: done, onerror: failed });
          document.body.append(script);
        })));
      <\/script><body><script src="${url}"><\/script>`);
      page.close();
      this.loaded = new Promise(done => { inside.onload = done; });
    }

    postMessage(message) {
      // A worker has a copy, too.
      const data = structuredClone(message);
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
