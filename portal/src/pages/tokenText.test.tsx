import { MantineProvider } from "@mantine/core";
import { act, fireEvent, render, screen } from "@testing-library/react";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { api, type Token } from "../api/client";
import { queryClient } from "../api/queries";
import { shownFor, TokenText } from "./tokenText";

const token: Token = {
	id: "019c0000-0000-7000-8000-000000000001",
	kind: "registration",
	name: "meters",
	state: "live",
	created_by: "u",
	created_at: "2026-11-29T09:00:00Z",
	expires_at: "2026-11-29T10:00:00Z",
	max_uses: 1,
	uses: 0,
	scope: {},
};
const text = "eyJ.the-token.itself";

beforeEach(() => {
	vi.useFakeTimers();
	vi.spyOn(api, "POST").mockResolvedValue({ data: { ...token, token: text }, response: new Response() } as never);
});
afterEach(() => {
	vi.useRealTimers();
});

test("a token that is shown is hidden after a minute, and in no cache", async () => {
	render(
		<MantineProvider>
			<TokenText token={token} />
		</MantineProvider>,
	);
	expect(document.body.textContent).not.toContain(text);
	await act(async () => {
		fireEvent.click(screen.getByRole("button", { name: "Show" }));
		await vi.advanceTimersByTimeAsync(0);
	});
	expect(document.body.textContent).toContain(`socketxp login "${text}"`);
	const cached = JSON.stringify([
		queryClient
			.getQueryCache()
			.getAll()
			.map((q) => q.state.data),
		queryClient
			.getMutationCache()
			.getAll()
			.map((m) => m.state.data),
	]);
	expect(cached).not.toContain(text);
	await act(() => vi.advanceTimersByTimeAsync(shownFor - 1));
	expect(document.body.textContent).toContain(text);
	await act(() => vi.advanceTimersByTimeAsync(1));
	expect(document.body.textContent).not.toContain(text);
});
