import { Anchor } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";
import { devicesQuery, gatewayQuery, meQuery } from "../api/queries";
import { t } from "../strings";
import { Facts, Page, Panel } from "../ui/page";
import { lifeWords } from "./tokenRules";

const number = t.common.number;

export function AccountPage() {
	const account = useQuery(meQuery).data?.account;
	const gateway = useQuery(gatewayQuery).data;
	const devices = useQuery(devicesQuery({ limit: 1 })).data;
	const a = t.account;
	const note = (text: string) => <div className="quiet">{text}</div>;
	return (
		<Page title={a.title} lead={a.lead}>
			{account && (
				<Panel title={a.facts}>
					<Facts
						facts={[
							[a.name, account.name],
							[
								a.devices,
								<div key="d" className="numbers">
									<Anchor inherit renderRoot={(p) => <Link to="/devices" {...p} />}>
										{devices
											? a.ofQuota(number(devices.total), number(account.device_quota))
											: number(account.device_quota)}
									</Anchor>
									{note(a.left)}
								</div>,
							],
							[
								a.basic,
								<div key="b">
									{account.basic_tokens ? a.basicOn(lifeWords(account.basic_token_life)) : a.basicOff}
									{note(a.basicHelp)}
								</div>,
							],
							[
								a.id,
								<span key="i" className="mono">
									{account.id}
								</span>,
							],
						]}
					/>
				</Panel>
			)}
			<Panel title={a.gateway}>
				<Facts
					facts={[
						[a.address, location.origin],
						[a.version, gateway?.version],
						[
							a.apiVersions,
							<Anchor key="a" inherit renderRoot={(p) => <Link to="/api/docs" {...p} />}>
								{gateway?.api_versions.join(", ") ?? ""} · {a.apiLink}
							</Anchor>,
						],
					]}
				/>
			</Panel>
		</Page>
	);
}
