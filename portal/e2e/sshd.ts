import { execFileSync, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { atTheEnd, freePort, until } from "./harness";

/** Debian's sshd on loopback with a user of the test's own, who has a password and a key. */
export class Sshd {
	readonly user = `sxp${randomBytes(4).toString("hex")}`;
	readonly password = randomBytes(12).toString("base64url");
	readonly dir = mkdtempSync(join(tmpdir(), "socketxp-sshd-"));
	readonly home: string;
	port = 0;
	private process: ReturnType<typeof spawn> | undefined;

	private constructor() {
		this.home = join(this.dir, "home");
	}

	static async start(): Promise<Sshd> {
		const s = new Sshd();
		execFileSync("chmod", ["755", s.dir]);
		execFileSync("useradd", ["--create-home", "--home-dir", s.home, "--shell", "/bin/bash", s.user], { stdio: "pipe" });
		atTheEnd(() => {
			try {
				execFileSync("pkill", ["-KILL", "-u", s.user], { stdio: "ignore" });
			} catch {
				// It runs nothing any more.
			}
			execFileSync("userdel", [s.user], { stdio: "pipe" });
			rmSync(s.dir, { recursive: true, force: true });
		});
		execFileSync("chpasswd", { input: `${s.user}:${s.password}\n` });
		execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(s.dir, "user")]);
		execFileSync("install", ["-d", "-o", s.user, "-g", s.user, "-m", "700", join(s.home, ".ssh")]);
		execFileSync("install", ["-o", s.user, "-g", s.user, "-m", "600", join(s.dir, "user.pub"), s.authorizedKeys]);
		s.port = await freePort();
		s.newHostKey();
		await s.serve();
		return s;
	}

	get authorizedKeys(): string {
		return join(this.home, ".ssh", "authorized_keys");
	}

	get key(): string {
		return readFileSync(join(this.dir, "user"), "utf8");
	}

	/** SHA256:… as ssh-keygen says it. */
	get fingerprint(): string {
		return execFileSync("ssh-keygen", ["-lf", join(this.dir, "host.pub")], { encoding: "utf8" }).split(" ")[1] ?? "";
	}

	newHostKey() {
		rmSync(join(this.dir, "host"), { force: true });
		execFileSync("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", join(this.dir, "host")]);
	}

	async serve() {
		const config = join(this.dir, "config");
		writeFileSync(
			config,
			[
				`Port ${this.port}`,
				"ListenAddress 127.0.0.1",
				`HostKey ${join(this.dir, "host")}`,
				`PidFile ${join(this.dir, "pid")}`,
				"UsePAM no",
				"PasswordAuthentication yes",
				"PubkeyAuthentication yes",
				"StrictModes yes",
				`AllowUsers ${this.user}`,
				"Subsystem sftp internal-sftp",
				"",
			].join("\n"),
		);
		execFileSync("mkdir", ["-p", "/run/sshd"]);
		const p = spawn("/usr/sbin/sshd", ["-D", "-e", "-f", config], { stdio: ["ignore", "pipe", "pipe"] });
		this.process = p;
		atTheEnd(() => this.stop());
		await until("sshd answers", () => {
			if (p.exitCode !== null) throw new Error(`sshd: ${p.stderr?.read()}`);
			return answers(this.port);
		});
	}

	async stop() {
		const p = this.process;
		if (!p || p.exitCode !== null || p.signalCode !== null) return;
		const ended = new Promise((done) => p.on("exit", done));
		p.kill();
		await ended;
	}
}

const answers = (port: number) =>
	new Promise<boolean>((done) => {
		const c = connect(port, "127.0.0.1");
		c.on("data", () => {
			c.destroy();
			done(true);
		});
		c.on("error", () => done(false));
	});
