// Says what this gateway is and whether it waits for its first owner.
const [gateway, setup] = await Promise.all(
	["/api/v1/gateway", "/api/v1/setup"].map(async (path) => {
		try {
			const answer = await fetch(path);
			return answer.ok ? await answer.json() : null;
		} catch {
			return null;
		}
	}),
);
if (setup?.needed) document.getElementById("setup").hidden = false;
if (gateway?.version) document.getElementById("version").textContent = `Version ${gateway.version}`;
