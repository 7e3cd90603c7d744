import { queryOptions } from "@tanstack/react-query";
import { toApiError } from "./client";

/** As much of a JSON schema as the gateway's description has (OpenAPI 3.1). */
export interface Schema {
	$ref?: string;
	type?: string | string[];
	description?: string;
	properties?: Record<string, Schema>;
	required?: string[];
	items?: Schema;
	additionalProperties?: Schema | boolean;
	enum?: unknown[];
	examples?: unknown[];
	default?: unknown;
	format?: string;
	contentEncoding?: string;
	minimum?: number;
	maximum?: number;
	minLength?: number;
	maxLength?: number;
	maxItems?: number;
}

export interface Parameter {
	name: string;
	in: "path" | "query" | "header" | "cookie";
	required?: boolean;
	description?: string;
	schema?: Schema;
}

type Content = Record<string, { schema?: Schema }>;

export interface Operation {
	operationId: string;
	summary: string;
	description?: string;
	tags: string[];
	parameters?: Parameter[];
	requestBody?: { content: Content };
	responses: Record<string, { description?: string; content?: Content }>;
	security?: Record<string, string[]>[];
}

export interface Description {
	info: { title: string; version: string; description?: string };
	tags: { name: string; description?: string }[];
	paths: Record<string, Record<string, Operation>>;
	components: { schemas: Record<string, Schema> };
}

/** The API's description of itself. */
export const descriptionQuery = queryOptions({
	queryKey: ["description"],
	staleTime: Number.POSITIVE_INFINITY,
	queryFn: async (): Promise<Description> => {
		const answer = await fetch("/api/openapi.json");
		if (!answer.ok) throw toApiError(undefined, answer.status);
		return (await answer.json()) as Description;
	},
});

/** One route with its place in the description. */
export interface Route {
	id: string;
	method: string;
	path: string;
	op: Operation;
}

/** The routes by tag, in the order of the description. */
export function routesByTag(d: Description): { tag: string; description?: string; routes: Route[] }[] {
	const groups = new Map<string, Route[]>(d.tags.map((t) => [t.name, []]));
	for (const [path, methods] of Object.entries(d.paths)) {
		for (const [method, op] of Object.entries(methods)) {
			const tag = op.tags[0] ?? "";
			const routes = groups.get(tag) ?? [];
			routes.push({ id: op.operationId, method: method.toUpperCase(), path, op });
			groups.set(tag, routes);
		}
	}
	return [...groups]
		.filter(([, routes]) => routes.length > 0)
		.map(([tag, routes]) => {
			const description = d.tags.find((t) => t.name === tag)?.description;
			return { tag, routes, ...(description ? { description } : {}) };
		});
}

/** Whether all words are somewhere in what a route is called. */
export function matches(r: Route, query: string): boolean {
	const text = `${r.method} ${r.path} ${r.id} ${r.op.summary}`.toLowerCase();
	return query
		.toLowerCase()
		.split(/\s+/)
		.every((word) => text.includes(word));
}

export function resolve(d: Description, s: Schema | undefined): Schema {
	let at = s;
	for (let hops = 0; at?.$ref && hops < 8; hops++) at = d.components.schemas[at.$ref.split("/").pop() ?? ""];
	return at ?? {};
}

const kindOf = (s: Schema) => [s.type].flat().find((t) => t && t !== "null");

/** What a schema takes, in a few words. */
export function typeName(d: Description, schema: Schema | undefined): string {
	const s = resolve(d, schema);
	const kind = kindOf(s);
	if (s.enum) return s.enum.join(" | ");
	if (kind === "array") return `list of ${typeName(d, s.items)}`;
	const limits = [
		s.format ?? s.contentEncoding,
		s.minimum !== undefined && `≥ ${s.minimum}`,
		s.maximum !== undefined && `≤ ${s.maximum}`,
		s.minLength !== undefined && `≥ ${s.minLength} characters`,
		s.maxLength !== undefined && `≤ ${s.maxLength} characters`,
	].filter(Boolean);
	return [kind ?? "any", ...limits].join(", ");
}

export interface Field {
	name: string;
	depth: number;
	type: string;
	required: boolean;
	description: string;
}

const deepest = 3;

/** The fields of an object, those of objects in it below each. */
export function fieldsOf(d: Description, schema: Schema | undefined, depth = 0): Field[] {
	const s = resolve(d, schema);
	if (kindOf(s) === "array") return fieldsOf(d, s.items, depth);
	return Object.entries(s.properties ?? {})
		.filter(([name]) => name !== "$schema")
		.flatMap(([name, field]) => {
			const inner = resolve(d, field);
			const row: Field = {
				name,
				depth,
				type: typeName(d, field),
				required: s.required?.includes(name) ?? false,
				description: field.description ?? inner.description ?? "",
			};
			return depth < deepest ? [row, ...fieldsOf(d, field, depth + 1)] : [row];
		});
}

/** A value such as the schema takes: with required fields alone, or with all. */
export function sample(d: Description, schema: Schema | undefined, all: boolean, depth = 0): unknown {
	const s = resolve(d, schema);
	if (s.examples?.length) return s.examples[0];
	if (s.default !== undefined) return s.default;
	if (s.enum) return s.enum[0];
	switch (kindOf(s)) {
		case "object": {
			if (depth > deepest) return {};
			const fields = Object.entries(s.properties ?? {}).filter(
				([name]) => name !== "$schema" && (all || s.required?.includes(name)),
			);
			return Object.fromEntries(fields.map(([name, f]) => [name, sample(d, f, all, depth + 1)]));
		}
		case "array":
			return all && depth <= deepest ? [sample(d, s.items, all, depth + 1)] : [];
		case "integer":
		case "number":
			return s.minimum ?? 0;
		case "boolean":
			return false;
		case "string":
			if (s.format === "date-time") return "2026-01-31T12:00:00Z";
			return all ? "…" : "";
		default:
			return null;
	}
}

/** What somebody has filled in to send. */
export interface Filled {
	parameters: Record<string, string>;
	body: string | undefined;
}

export interface Built {
	url: string;
	headers: Record<string, string>;
	body: string | undefined;
}

/** The request of what was filled in. Empty parameters are left out. */
export function build(r: Route, filled: Filled): Built {
	let url = r.path;
	const query = new URLSearchParams();
	const headers: Record<string, string> = {};
	for (const p of r.op.parameters ?? []) {
		const value = filled.parameters[p.name]?.trim() ?? "";
		if (p.in === "path") url = url.replace(`{${p.name}}`, value ? encodeURIComponent(value) : `{${p.name}}`);
		else if (!value) continue;
		else if (p.in === "query") query.append(p.name, value);
		else if (p.in === "header") headers[p.name] = value;
	}
	if (query.size > 0) url += `?${query}`;
	if (filled.body !== undefined) headers["Content-Type"] = "application/json";
	return { url, headers, body: filled.body };
}

/** Text as one word of a POSIX shell. */
const quoted = (s: string) => `'${s.replaceAll("'", "'\\''")}'`;

/** The same request by curl. The token stays in a variable: a command line is no place for it. */
export function curl(origin: string, r: Route, b: Built): string {
	const parts = ["curl", ...(r.method === "GET" ? [] : ["-X", r.method]), quoted(origin + b.url)];
	const kinds = (r.op.security ?? []).flatMap((s) => Object.keys(s));
	const more: string[] = [];
	if (kinds.includes("token")) more.push(`-H "Authorization: Bearer $SOCKETXP_API_TOKEN"`);
	else if (kinds.includes("signin")) more.push("-b cookies -c cookies");
	for (const [name, value] of Object.entries(b.headers)) more.push(`-H ${quoted(`${name}: ${value}`)}`);
	if (b.body !== undefined) more.push(`--data ${quoted(b.body)}`);
	return [parts.join(" "), ...more].join(" \\\n  ");
}
