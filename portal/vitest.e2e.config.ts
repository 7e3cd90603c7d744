import { defineConfig } from "vitest/config";

// The portal as people meet it: Debian's Chromium, a real gateway, real agents.
export default defineConfig({
	test: {
		include: ["e2e/**/*.e2e.ts"],
		testTimeout: 60_000,
		hookTimeout: 60_000,
		maxWorkers: 2,
		retry: 0,
	},
});
