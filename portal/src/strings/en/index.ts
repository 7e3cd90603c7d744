import { cli } from "./cli";
import { common } from "./common";
import { device } from "./device";
import { devices } from "./devices";
import { groups } from "./groups";
import { password } from "./password";
import { setUp } from "./setUp";
import { shell } from "./shell";
import { signIn } from "./signIn";
import { terminal } from "./terminal";

export const en = { cli, common, device, devices, groups, password, setUp, shell, signIn, terminal };
