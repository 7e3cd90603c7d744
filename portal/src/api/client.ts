import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./schema.gen";

export type Schemas = components["schemas"];
export type Device = Schemas["Device"];
export type Token = Schemas["Token"];
export type Group = Schemas["Group"];
export type Session = Schemas["Session"];
export type GatewayEvent = Schemas["Event"];
export type AuditRecord = Schemas["AuditRecord"];
export type Me = Schemas["Me"];

/**
 * A refusal of the gateway (RFC 9457), or "unreachable" if it gave no answer.
 * `message` is for people; `hint` says what to do.
 */
export class ApiError extends Error {
	readonly code: string;
	readonly status: number;
	readonly hint: string | undefined;
	/** What is wrong with which field of the request, by its path: `body.name`. */
	readonly fields: ReadonlyMap<string, string>;
	/** After how many seconds to try again, where the gateway says so. */
	readonly retryAfter: number | undefined;

	constructor(
		problem: {
			code: string;
			detail: string;
			status: number;
			hint?: string | undefined;
			retryAfter?: number | undefined;
		},
		fields = new Map<string, string>(),
	) {
		super(problem.detail);
		this.name = "ApiError";
		this.code = problem.code;
		this.status = problem.status;
		this.hint = problem.hint;
		this.fields = fields;
		this.retryAfter = problem.retryAfter;
	}
}

type Listener = () => void;
const signedOut = new Set<Listener>();

/** Calls f whenever the gateway no longer knows who is calling; returns how to stop that. */
export function onSignedOut(f: Listener): () => void {
	signedOut.add(f);
	return () => signedOut.delete(f);
}

const writes = new Set(["POST", "PUT", "PATCH", "DELETE"]);

const middleware: Middleware = {
	onRequest({ request }) {
		if (writes.has(request.method)) {
			// A browser may send a request again when a connection breaks: the gateway does it once.
			request.headers.set("Idempotency-Key", crypto.randomUUID());
		}
		return request;
	},
	onResponse({ request, response }) {
		// A wrong password is answered with 401 too, and says nothing about the sign-in.
		if (response.status === 401 && !/\/(signin|reauth|me)$/.test(new URL(request.url).pathname)) {
			for (const f of signedOut) f();
		}
		return undefined;
	},
	onError() {
		return new ApiError({
			code: "unreachable",
			detail: "The gateway does not answer.",
			status: 0,
			hint: "Nothing was lost. Try again in a moment.",
		});
	},
};

const client = createClient<paths>({ baseUrl: globalThis.location?.origin ?? "", credentials: "same-origin" });
client.use(middleware);

/** The REST API with the types of its OpenAPI description. Wrap each call in `ask`. */
export const api = client;

interface Answer<T> {
	data?: T;
	error?: unknown;
	response: Response;
}

/** The answer's data, or its refusal thrown as an ApiError. */
export async function ask<T>(answer: Promise<Answer<T>>): Promise<T> {
	const { data, error, response } = await answer;
	if (response.ok) {
		return data as T;
	}
	throw toApiError(error, response.status, Number(response.headers.get("Retry-After")) || undefined);
}

/** Makes an ApiError of a problem document, or of whatever else was answered. */
export function toApiError(error: unknown, status: number, retryAfter?: number): ApiError {
	const problem = isProblem(error) ? error : undefined;
	if (!problem) {
		return new ApiError({
			code: "unexpected",
			detail: `The gateway answered with status ${status}.`,
			status,
			hint: "If a proxy stands in between, look at its logs.",
		});
	}
	const fields = new Map((problem.errors ?? []).map((e) => [e.location, e.message]));
	return new ApiError(
		{
			code: problem.code,
			detail: sentence(problem.detail),
			status,
			hint: problem.hint && sentence(problem.hint),
			retryAfter,
		},
		fields,
	);
}

function isProblem(e: unknown): e is Schemas["Problem"] {
	return typeof e === "object" && e !== null && "code" in e && "detail" in e;
}

/** The gateway's messages are written for logs too; on a page they are sentences. */
export function sentence(s: string): string {
	const t = s.trim();
	return t.charAt(0).toUpperCase() + t.slice(1) + (/[.!?:]$/.test(t) ? "" : ".");
}
