//go:build !linux

package agent

import "errors"

func onDisk(string) (bool, error) { return false, errors.ErrUnsupported }
