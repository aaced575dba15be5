// Client of the service: one method per route. Every error is a Problem, with advice for the user.

const KEY = "capo-api-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class Problem extends Error {
  constructor(status, title, detail, retryAfter = null) {
    super(detail);
    this.status = status;
    this.title = title;
    this.retryAfter = retryAfter;
  }
  /** What the user can do about it. */
  get advice() {
    return {
      0: "Is the service running, and may this page call it (setting allow_origins)?",
      401: "Enter an API key above, then press Credit again.",
      403: "This key lacks the role for this request. Ask the operator of the service for another key.",
      413: "Shorten the rollout.",
      422: "Correct the field that the message names.",
      429: "The service is overloaded. The request is retried after the time that the service gives.",
      502: "No critique of the judge could be parsed. Try more critiques, another style, or another judge.",
      503: "The judge is loading or restarting. The request is retried until it is ready.",
      504: "The judge took too long. Try fewer critiques or a shorter style.",
    }[this.status] || "";
  }
}

async function call(base, path, body, apiKey, signal) {
  const headers = { Accept: "application/json" };
  if (apiKey) headers.Authorization = `Bearer ${apiKey}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch((base || ".") + path, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The service cannot be reached", `${base || location.origin}: ${error.message}`);
  }
  const text = await response.text();
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    throw new Problem(response.status, "Unexpected response", text.slice(0, 300));
  }
  if (!response.ok) {
    const after = response.headers.get("Retry-After");
    throw new Problem(response.status, data.title || "Error", data.detail || text, after ? Number(after) : null);
  }
  return data;
}

export class Service {
  constructor(base = "", apiKey = null) {
    this.base = base.replace(/\/+$/, "");
    this.apiKey = apiKey;
  }
  #call(path, body, signal) {
    return call(this.base, path, body, this.apiKey ?? key.get(), signal);
  }
  info() {
    return this.#call("/info");
  }
  live(after) {
    return this.#call(`/live?after=${after}`);
  }
  tokens(body) {
    return this.#call("/tokens", body);
  }
  /** The judge's prompt for one rollout. */
  prompt(rollout, options) {
    return this.#call("/prompt", { rollouts: [rollout], ...options });
  }
  /** The response to a batch of rollouts; a result may be an error. */
  creditMany(rollouts, options, signal) {
    return this.#call("/credit", { rollouts, ...options }, signal);
  }
  /** The credit of one rollout: {result, response}. */
  async credit(rollout, options, signal) {
    const response = await this.#call("/credit", { rollouts: [rollout], ...options }, signal);
    const [result] = response.results;
    if (result.status === "error") {
      throw new Problem(result.error.status, result.error.title, result.error.detail);
    }
    return { result, response };
  }
}
