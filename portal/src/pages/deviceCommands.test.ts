import { expect, test } from "vitest";
import { addCommands, localPort, reachCommands, tokenLine } from "./deviceCommands";
import { noTerminal, portOf, tunnelLabel } from "./deviceParts";

const adding = { token: "TOKEN", group: "lab", name: "", builtIn: true };

test("the commands that add a device", () => {
	expect(addCommands("linux", adding)).toEqual({
		register: 'socketxp login "TOKEN" --iot-device-group lab',
		connect: "socketxp connect tcp://localhost:22 --enable-ssh",
	});
	expect(addCommands("macos", { ...adding, name: "mac", builtIn: false })).toEqual({
		register: 'socketxp login "TOKEN" --iot-device-group lab --iot-device-name mac',
		connect: "socketxp connect tcp://localhost:22",
	});
	// Windows has no built-in SSH server.
	expect(addCommands("windows", adding).connect).toBe("socketxp connect tcp://localhost:22");
	const docker = addCommands("docker", adding);
	expect(docker.register).toContain('socketxp login "TOKEN" --iot-device-group lab');
	expect(docker.connect).not.toContain("TOKEN");
});

test("the commands that reach one", () => {
	const c = reachCommands("kiosk", 22, true, "pi");
	expect(c.ssh).toBe("socketxp ssh pi@kiosk");
	expect(c.slave).toBe(
		"socketxp connect tcp://localhost:3000 --iot-slave --peer-device-name kiosk --peer-device-port 22",
	);
	expect(c.putty).toBe("putty -ssh -P 3000 pi@localhost");
	expect(c.fileZilla).toBe("sftp://pi@localhost:3000");
	expect(reachCommands("kiosk", 2222, true, "pi").ssh).toBe("socketxp ssh -p 2222 pi@kiosk");
	expect([localPort(80, false), localPort(5432, false)]).toEqual([10080, 5432]);
	expect(tokenLine("posix", "T")).toBe("export SOCKETXP_AUTHTOKEN=T");
	expect(tokenLine("powershell", "T")).toBe('$env:SOCKETXP_AUTHTOKEN = "T"');
});

test.each([
	["tcp://localhost:22", 22, "22"],
	["tcp://127.0.0.1:5432", 5432, "5432"],
	["tcp://192.168.1.5:80", 80, "192.168.1.5:80"],
	["http://localhost", 80, "http://localhost"],
	["https://[::1]:8443", 8443, "https://8443"],
	["nonsense", 0, "nonsense"],
])("%s is reached by port %i and called %s", (destination, port, label) => {
	expect(portOf({ destination, ssh: false })).toBe(port);
	expect(tunnelLabel({ destination, ssh: false })).toBe(label);
});

test("why there is no terminal", () => {
	const d = { status: "online", tunnels: [{ destination: "tcp://localhost:22", ssh: true }] } as never as Parameters<
		typeof noTerminal
	>[0];
	expect(noTerminal(d)).toBeUndefined();
	expect(noTerminal({ ...d, status: "offline" })).toMatch(/offline/);
	expect(noTerminal({ ...d, tunnels: [{ destination: "tcp://localhost:5432", ssh: false }] })).toMatch(/no SSH server/);
});
