"""The module SampleData: keeps what is registered, and presses the button of a sample; it downloads nothing."""

import slicer

slicer.modules.sampleDataSources = {}


class SampleDataSource:
    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
    ):
        if uris is None or fileNames is None or nodeNames is None:
            raise TypeError("a source needs uris, fileNames and nodeNames, even with a customDownloader")
        lists = [[each] if isinstance(each, str) else each for each in (uris, fileNames, nodeNames)]
        if len({len(each) for each in lists}) != 1:
            raise ValueError("uris, fileNames and nodeNames must have the same length")
        self.sampleName, self.sampleDescription = sampleName, sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames = lists
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName


class SampleDataLogic:
    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileType="VolumeFile",
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
    ):
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        if all(source.sampleName != sampleName for source in sources):
            description = None
            sources.append(
                SampleDataSource(
                    sampleName, description, uris, fileNames, nodeNames, customDownloader, thumbnailFileName
                )
            )

    def sourceForSampleName(self, sampleName):
        every = (source for sources in slicer.modules.sampleDataSources.values() for source in sources)
        return next((source for source in every if source.sampleName == sampleName), None)

    def downloadSample(self, sampleName):
        """In the application too this leaves the customDownloader aside: only the button calls it."""
        raise RuntimeError(f"the test host does not download '{sampleName}'")


def press(sampleName):
    """What a click on the sample's button does."""
    source = SampleDataLogic().sourceForSampleName(sampleName)
    return source.customDownloader(source)
