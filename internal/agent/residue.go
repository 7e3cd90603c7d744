package agent

import (
	"errors"
	"io/fs"
	"os"
	"slices"
)

// secretFiles and otherFiles are all that an agent leaves in its work folder. The
// former are overwritten when they go.
var (
	secretFiles = []string{keyFile, sequenceFileName, sshHostKeyFile, profilesFile, knownFile, sshKnownFile}
	otherFiles  = []string{authoritiesFile, singleUseFile, waysFile, sshConfigFile, socketFile, lockFile, knownLockFile}
)

// Residue returns the names of what an agent has left in the folder.
func (d *Dir) Residue() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var left []string
	for _, e := range entries {
		if slices.Contains(secretFiles, e.Name()) || slices.Contains(otherFiles, e.Name()) {
			left = append(left, e.Name())
		}
	}
	return left, nil
}

// Wipe removes all that an agent has left in the folder, and the folder if nothing
// else is in it. It returns the paths that are gone, also beside an error.
func (d *Dir) Wipe() (gone []string, err error) {
	left, err := d.Residue()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range left {
		if slices.Contains(secretFiles, name) {
			err = d.wipe(name)
		} else {
			err = os.Remove(d.file(name))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // an agent that has just ended takes its socket away
			errs = append(errs, err)
			continue
		}
		gone = append(gone, d.file(name))
	}
	if os.Remove(d.path) == nil {
		gone = append(gone, d.path)
	}
	return gone, errors.Join(errs...)
}

// WipeProfiles is Wipe for the user's own configuration.
func WipeProfiles() (gone []string, err error) {
	dir, err := profilesDir()
	if err != nil {
		return nil, err
	}
	return dir.Wipe()
}
