package gateway

import (
	"context"

	"socketxp"
	"socketxp/internal/api"
)

type groupsOut struct{ Body api.Page[api.Group] }

func (g *Gateway) listGroups(ctx context.Context, who caller, _ *struct{}) (*groupsOut, error) {
	found, err := g.store.Groups(ctx, who.accountID)
	if err != nil {
		return nil, err
	}
	items := mapped(found, func(gr socketxp.Group) api.Group {
		return api.Group{Name: gr.Name, CreatedAt: gr.CreatedAt, Devices: gr.Devices}
	})
	return &groupsOut{api.Page[api.Group]{Items: items}}, nil
}

type createGroupIn struct{ Body api.GroupRequest }

type groupOut struct{ Body api.Group }

func (g *Gateway) createGroup(ctx context.Context, who caller, in *createGroupIn) (*groupOut, error) {
	name := in.Body.Name
	if err := socketxp.CheckGroup(name); err != nil {
		return nil, err
	}
	group := socketxp.Group{AccountID: who.accountID, Name: name, CreatedAt: g.now()}
	if err := g.store.CreateGroup(ctx, group, g.entry(who, "group.create", "group", "", name)); err != nil {
		return nil, groupTaken(err, name)
	}
	return &groupOut{api.Group{Name: name, CreatedAt: group.CreatedAt}}, nil
}

func groupTaken(err error, name string) error {
	if socketxp.CodeOf(err) == socketxp.CodeConflict {
		return &socketxp.Error{Code: socketxp.CodeConflict, Message: "there is a group " + name + " already", Err: err}
	}
	return orMissing(err, "group")
}

type nameIn struct {
	Name string `path:"name" maxLength:"200"`
}

type renameGroupIn struct {
	Name string `path:"name" maxLength:"200"`
	Body api.GroupRequest
}

// renameGroup renames a group. Rights that were given on the old name don't move
// along: what is open by them is cut, as if the devices had been moved.
func (g *Gateway) renameGroup(ctx context.Context, who caller, in *renameGroupIn) (*groupOut, error) {
	if socketxp.CheckGroup(in.Name) != nil {
		return nil, missing("group")
	}
	name := in.Body.Name
	if err := socketxp.CheckGroup(name); err != nil {
		return nil, err
	}
	entry := g.entry(who, "group.rename", "group", "", in.Name)
	entry.Detail = "to " + quote(name)
	if err := g.store.RenameGroup(ctx, who.accountID, in.Name, name, entry); err != nil {
		return nil, groupTaken(err, name)
	}
	if err := g.hintGroup(ctx, who.accountID, name); err != nil {
		return nil, err
	}
	groups, err := g.store.Groups(ctx, who.accountID)
	if err != nil {
		return nil, err
	}
	for _, gr := range groups {
		if gr.Name == name {
			return &groupOut{api.Group{Name: gr.Name, CreatedAt: gr.CreatedAt, Devices: gr.Devices}}, nil
		}
	}
	return nil, missing("group") // deleted in the same moment
}

// hintGroup tells everyone that the devices of a group changed.
func (g *Gateway) hintGroup(ctx context.Context, accountID, group string) error {
	q := socketxp.DeviceQuery{Group: group, Limit: 200}
	for {
		page, _, err := g.store.Devices(ctx, accountID, q)
		if err != nil {
			return err
		}
		for _, d := range page {
			g.cluster.Publish(socketxp.Hint{Kind: socketxp.HintDeviceChanged, AccountID: accountID, ID: d.ID})
		}
		if len(page) < q.Limit {
			return nil
		}
		last := page[len(page)-1]
		q.After = &socketxp.DeviceCursor{Value: last.Name, ID: last.ID}
	}
}

func (g *Gateway) deleteGroup(ctx context.Context, who caller, in *nameIn) (*struct{}, error) {
	if socketxp.CheckGroup(in.Name) != nil {
		return nil, missing("group")
	}
	err := g.store.DeleteGroup(ctx, who.accountID, in.Name, g.entry(who, "group.delete", "group", "", in.Name))
	return nil, orMissing(err, "group")
}
