/** What somebody types to add a device or to reach one. Nothing here runs anything. */

export const platforms = ["linux", "macos", "windows", "docker"] as const;
export type Platform = (typeof platforms)[number];

export const processors: Record<Platform, readonly string[]> = {
	linux: ["amd64", "arm64", "arm", "riscv64", "386"],
	macos: ["arm64", "amd64"],
	windows: ["amd64", "arm64"],
	docker: ["amd64", "arm64", "arm"],
};

/** How the agent is built from its source. */
export function buildCommand(platform: Platform, processor: string): string {
	const os = { linux: "linux", macos: "darwin", windows: "windows", docker: "linux" }[platform];
	const file = platform === "windows" ? "socketxp.exe" : "socketxp";
	return `CGO_ENABLED=0 GOOS=${os} GOARCH=${processor} go build -tags nethttpomithttp2 -ldflags '-s -w' -o ${file} ./cmd/socketxp`;
}

export interface Adding {
	token: string;
	group: string;
	/** Empty: the agent makes one of the host name. */
	name: string;
	/** Whether the agent's own SSH server is published; Windows has none. */
	builtIn: boolean;
}

const container = (run: string) =>
	`docker run ${run} -v socketxp:/var/lib/socketxp -v "$PWD/socketxp:/usr/local/bin/socketxp:ro" debian:stable-slim`;

/** The command that registers a device, and the one that connects it. */
export function addCommands(platform: Platform, a: Adding): { register: string; connect: string } {
	const login = `socketxp login "${a.token}" --iot-device-group ${a.group}${a.name ? ` --iot-device-name ${a.name}` : ""}`;
	const connect = `socketxp connect tcp://localhost:22${a.builtIn && platform !== "windows" ? " --enable-ssh" : ""}`;
	if (platform !== "docker") return { register: login, connect };
	return {
		register: `${container(`--rm --hostname ${a.name || "container"}`)} \\\n  ${login}`,
		connect: `${container(`-d --name socketxp --restart unless-stopped${a.builtIn ? "" : " --network host"}`)} \\\n  ${connect}`,
	};
}

export type Shell = "posix" | "powershell";

/** Puts the token where the agent looks for it: on a command line it would be in the history. */
export const tokenLine = (shell: Shell, token: string) =>
	shell === "posix" ? `export SOCKETXP_AUTHTOKEN=${token}` : `$env:SOCKETXP_AUTHTOKEN = "${token}"`;

/** A local port that stands for the device's; 3000 for SSH as everywhere in the documentation. */
export const localPort = (port: number, ssh: boolean) => (ssh ? 3000 : port < 1024 ? port + 10_000 : port);

/** The commands to reach a port of a device. `device` and `user` are checked: they need no quoting. */
export function reachCommands(device: string, port: number, ssh: boolean, user: string) {
	const local = localPort(port, ssh);
	const at = port === 22 ? "" : ` -p ${port}`;
	return {
		localPort: local,
		ssh: `socketxp ssh${at} ${user}@${device}`,
		config: "socketxp ssh-config --install",
		scp: [
			`scp${port === 22 ? "" : ` -P ${port}`} report.pdf ${user}@${device}.socketxp:`,
			`sftp${port === 22 ? "" : ` -P ${port}`} ${user}@${device}.socketxp`,
			`rsync -a${port === 22 ? "" : ` -e 'ssh -p ${port}'`} site/ ${user}@${device}.socketxp:site/`,
		],
		slave: `socketxp connect tcp://localhost:${local} --iot-slave --peer-device-name ${device} --peer-device-port ${port}`,
		local: `ssh -p ${local} ${user}@localhost`,
		localScp: `scp -P ${local} report.pdf ${user}@localhost:`,
		putty: `putty -ssh -P ${local} ${user}@localhost`,
		fileZilla: `sftp://${user}@localhost:${local}`,
	};
}
