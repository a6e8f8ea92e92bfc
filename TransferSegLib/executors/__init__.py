"""Where jobs run: in processes of this computer, or on the nodes of a Ray cluster, behind one interface."""
