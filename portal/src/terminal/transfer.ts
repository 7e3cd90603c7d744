import { ApiError, api, ask, toApiError } from "../api/client";
import { saveFile, saveUrl } from "../ui/save";

/** Tells how many bytes have gone, of how many (0 if nobody knows). */
export type Progress = (sent: number, total: number) => void;

const address = (terminal: string, path: string, more = "") =>
	`/api/v1/terminals/${encodeURIComponent(terminal)}/files/content?path=${encodeURIComponent(path)}${more}`;

/** What is in a folder of the device's; "" is the user's home. */
export const listFolder = (terminal: string, path: string, signal: AbortSignal) =>
	ask(api.GET("/api/v1/terminals/{id}/files", { params: { path: { id: terminal }, query: { path } }, signal }));

export const makeFolder = (terminal: string, path: string) =>
	ask(api.POST("/api/v1/terminals/{id}/files/directory", { params: { path: { id: terminal } }, body: { path } }));

const unreachable = () =>
	new ApiError({
		code: "unreachable",
		detail: "The gateway does not answer.",
		status: 0,
		hint: "Nothing is left of a file that was sent in part.",
	});

/** Sends a file to the device. Cancelled by the signal, it leaves nothing there. */
export function upload(
	terminal: string,
	path: string,
	file: File,
	overwrite: boolean,
	progress: Progress,
	signal: AbortSignal,
): Promise<void> {
	// XMLHttpRequest, as fetch tells nothing of how much has been sent.
	return new Promise((done, failed) => {
		const x = new XMLHttpRequest();
		x.open("PUT", address(terminal, path, `&overwrite=${overwrite}`));
		x.setRequestHeader("Content-Type", "application/octet-stream");
		x.upload.onprogress = (e) => progress(e.loaded, e.lengthComputable ? e.total : file.size);
		x.onload = () => {
			if (x.status >= 200 && x.status < 300) {
				progress(file.size, file.size);
				done();
			} else failed(toApiError(json(x.responseText), x.status));
		};
		x.onerror = () => failed(unreachable());
		x.onabort = () => failed(new DOMException("cancelled", "AbortError"));
		signal.addEventListener("abort", () => x.abort());
		if (signal.aborted) x.abort();
		else x.send(file);
	});
}

function json(text: string): unknown {
	try {
		return JSON.parse(text);
	} catch {
		return undefined;
	}
}

/** Larger files are left to the browser's own downloads: this one holds them in memory. */
const inMemory = 256 << 20;

/**
 * Fetches a file of the device's and hands it to the browser to keep. "handed" if the
 * browser goes on with it by itself, as it is large or has no end. What the device
 * said of its size is not believed.
 */
export async function download(
	terminal: string,
	path: string,
	name: string,
	size: number,
	progress: Progress,
	signal: AbortSignal,
): Promise<"handed" | undefined> {
	const handOver = () => {
		saveUrl(address(terminal, path), name);
		return "handed" as const;
	};
	if (size > inMemory) return handOver();
	let answer: Response;
	try {
		answer = await fetch(address(terminal, path), { signal });
	} catch (e) {
		if (signal.aborted) throw e;
		throw unreachable();
	}
	if (!answer.ok || !answer.body) throw toApiError(await answer.json().catch(() => undefined), answer.status);
	const total = Number(answer.headers.get("Content-Length") ?? 0) || size;
	const parts: Uint8Array<ArrayBuffer>[] = [];
	let got = 0;
	const reader = answer.body.getReader();
	for (;;) {
		if (total > inMemory || got > inMemory) {
			await reader.cancel();
			return handOver();
		}
		const { done, value } = await reader.read();
		if (done) break;
		parts.push(value);
		got += value.length;
		progress(got, total);
	}
	saveFile(name, parts, "application/octet-stream");
	return undefined;
}

/** The path of a name in a folder. */
export const join = (folder: string, name: string) => `${folder.replace(/\/+$/, "")}/${name}`;

/** The folder above. */
export const above = (path: string) => path.replace(/\/+$/, "").replace(/\/[^/]*$/, "") || "/";
